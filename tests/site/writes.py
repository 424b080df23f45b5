"""Single writes of every kind, as a release of the site makes them, each undone at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.db import Error as DatabaseError
from django.db import connections, models, transaction

from migrations_playbook.errors import primary_message
from tests.fixtures.database import Database, role
from tests.fixtures.server import server_version
from tickets.models import Ticket

NOW = datetime(2030, 1, 1, tzinfo=UTC)
# What a role may do that has the least rights: of release N on the columns that it knows.
RIGHTS = {
    "site_n": "SELECT (id, token, redeemed_at), INSERT (id, token, redeemed_at), "
    "UPDATE (id, token, redeemed_at), DELETE",
    "site_n1": "SELECT, INSERT, UPDATE, DELETE",
}


class TicketOfReleaseN(models.Model):
    """The model as it was before the expand, on the same table."""

    id = models.BigAutoField(primary_key=True)
    token = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    redeemed_at = models.DateTimeField(null=True, blank=True)
    objects: ClassVar[models.Manager[TicketOfReleaseN]] = models.Manager()

    class Meta:
        # An app of its own, so that no command takes it for a part of the project.
        app_label = "release_n"
        managed = False
        db_table = "tickets_ticket"

    def __str__(self) -> str:
        return f"Ticket {self.pk}"


@dataclass
class Release:
    """A release of the site, with a session of its own as a role of the least rights.

    Arguments:
        role: the role, and the alias of its connection.
        model: the ticket as the release knows it.
    """

    role: str
    model: Any
    stale: list[Any] = field(default_factory=list)

    @property
    def tickets(self) -> Any:
        return self.model.objects.using(self.role)

    @property
    def knows_the_shadow(self) -> bool:
        return self.model is Ticket

    def new(self, **values: Any) -> Any:
        return self.model(**{"token": new_token(), **values})

    def has(self, **values: Any) -> bool:
        return bool(self.tickets.filter(**values).exists())

    def load(self) -> None:
        """Load a ticket, to be saved at every later moment."""
        self.stale.append(self.tickets.earliest("id"))


def new_token() -> uuid.UUID:
    """Return a token of the site's own: all begin with a zero."""
    return uuid.UUID(int=uuid.uuid4().int % 2**124)


# By the ORM: each returns whether the database has what was written. `pk` is a ticket's.


def save_new(site: Release, pk: int) -> bool:
    ticket = site.new()
    ticket.save(using=site.role)
    return site.has(pk=ticket.pk, token=ticket.token)


def create(site: Release, pk: int) -> bool:
    token = new_token()
    return site.has(pk=site.tickets.create(token=token).pk, token=token)


def create_many(site: Release, pk: int) -> bool:
    made = site.tickets.bulk_create([site.new(), site.new()])
    return all(site.has(pk=each.pk, token=each.token) for each in made)


def create_where_there_is_none(site: Release, pk: int) -> bool:
    there = site.tickets.get(pk=pk)
    count = site.tickets.count()
    site.tickets.bulk_create([site.new(token=there.token), site.new()], ignore_conflicts=True)
    return bool(site.tickets.count() == count + 1)


def create_or_renew(site: Release, pk: int) -> bool:
    site.tickets.bulk_create(
        [site.new(pk=pk, redeemed_at=NOW), site.new(redeemed_at=NOW)],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["redeemed_at"],
    )
    return site.has(pk=pk, redeemed_at=NOW)


def save_all_fields(site: Release, pk: int) -> bool:
    ticket = site.tickets.get(pk=pk)
    ticket.redeemed_at = NOW
    ticket.save()
    return site.has(pk=pk, token=ticket.token, redeemed_at=NOW)


def save_one_field(site: Release, pk: int) -> bool:
    ticket = site.tickets.get(pk=pk)
    ticket.redeemed_at = NOW
    ticket.save(update_fields=["redeemed_at"])
    return site.has(pk=pk, token=ticket.token, redeemed_at=NOW)


def save_another_token(site: Release, pk: int) -> bool:
    ticket = site.tickets.get(pk=pk)
    ticket.token = new_token()
    ticket.save()
    return site.has(pk=pk, token=ticket.token)


def save_a_copy(site: Release, pk: int) -> bool:
    ticket = site.tickets.get(pk=pk)
    ticket.pk, ticket.token, ticket._state.adding = None, new_token(), True
    ticket.save()
    return site.has(pk=ticket.pk, token=ticket.token)


def save_what_was_loaded_before(site: Release, pk: int) -> bool:
    for each in site.stale:
        each.redeemed_at = NOW
        each.save()
    return all(site.has(pk=each.pk, redeemed_at=NOW) for each in site.stale)


def update(site: Release, pk: int) -> bool:
    site.tickets.filter(pk=pk).update(redeemed_at=NOW)
    return site.has(pk=pk, redeemed_at=NOW)


def update_all(site: Release, pk: int) -> bool:
    return bool(site.tickets.update(redeemed_at=NOW) == site.tickets.count())


def update_the_token(site: Release, pk: int) -> bool:
    token = new_token()
    site.tickets.filter(pk=pk).update(token=token)
    return site.has(pk=pk, token=token)


def update_many(site: Release, pk: int) -> bool:
    tickets = list(site.tickets.all()[:3])
    for each in tickets:
        each.redeemed_at, each.token = NOW, new_token()
    site.tickets.bulk_update(tickets, ["redeemed_at", "token"])
    return all(site.has(pk=each.pk, token=each.token, redeemed_at=NOW) for each in tickets)


def get_or_create(site: Release, pk: int) -> bool:
    token = new_token()
    _, first = site.tickets.get_or_create(token=token)
    _, second = site.tickets.get_or_create(token=token)
    return (first, second) == (True, False)


def update_or_create(site: Release, pk: int) -> bool:
    token = new_token()
    for key in ({"pk": pk}, {"token": token}):
        site.tickets.update_or_create(**key, defaults={"redeemed_at": NOW})
    return site.has(pk=pk, redeemed_at=NOW) and site.has(token=token, redeemed_at=NOW)


def lock_and_redeem(site: Release, pk: int) -> bool:
    ticket = site.tickets.select_for_update().get(pk=pk)
    ticket.redeemed_at = NOW
    ticket.save(update_fields=["redeemed_at"])
    return site.has(pk=pk, redeemed_at=NOW)


def delete(site: Release, pk: int) -> bool:
    site.tickets.get(pk=pk).delete()
    return not site.has(pk=pk)


def delete_many(site: Release, pk: int) -> bool:
    site.tickets.filter(pk__gte=pk).delete()
    return not site.has(pk=pk)


def copy_in(site: Release, pk: int) -> bool:
    token = new_token()
    with (
        connections[site.role].cursor() as cursor,
        cursor.copy(COPY[site.knows_the_shadow]) as rows,
    ):
        rows.write_row([token, NOW, new_token()][: 3 if site.knows_the_shadow else 2])
    return site.has(token=token, redeemed_at=NOW)


COPY = {
    False: "COPY tickets_ticket (token, redeemed_at) FROM STDIN",
    True: "COPY tickets_ticket (token, redeemed_at, new_token) FROM STDIN",
}

# By the ORM of the release that knows the shadow, which its code need not write.


def save_no_shadow(site: Release, pk: int) -> bool:
    ticket = site.tickets.get(pk=pk)
    ticket.new_token, ticket.redeemed_at = None, NOW
    ticket.save()
    return site.has(pk=pk, redeemed_at=NOW)


def save_a_shadow(site: Release, pk: int) -> bool:
    ticket = site.tickets.get(pk=pk)
    ticket.new_token, ticket.redeemed_at = new_token(), NOW
    ticket.save()
    return site.has(pk=pk, redeemed_at=NOW)


def create_with_a_shadow(site: Release, pk: int) -> bool:
    token = new_token()
    return site.has(pk=site.tickets.create(token=token, new_token=new_token()).pk, token=token)


# By SQL: each touches a row. `%(new)s` is a new token, `%(pk)s` a ticket.
STATEMENTS: Mapping[str, str] = {
    "insert": "INSERT INTO tickets_ticket (token) VALUES (%(new)s)",
    "insert and return": "INSERT INTO tickets_ticket (token) VALUES (%(new)s) RETURNING id, token",
    "insert what is selected": "INSERT INTO tickets_ticket (token, redeemed_at) "
    "SELECT %(new)s, redeemed_at FROM tickets_ticket WHERE id = %(pk)s",
    "update": "UPDATE tickets_ticket SET redeemed_at = now() WHERE id = %(pk)s",
    "update the token": "UPDATE tickets_ticket SET token = %(new)s WHERE id = %(pk)s",
    "update the key": "UPDATE tickets_ticket SET id = 1000000 + id WHERE id = %(pk)s",
    "update by another table": "UPDATE tickets_ticket AS t SET redeemed_at = now() "
    "FROM (VALUES (%(pk)s)) AS v (id) WHERE t.id = v.id",
    "upsert by the key": "INSERT INTO tickets_ticket (id, token) VALUES (%(pk)s, %(new)s) "
    "ON CONFLICT (id) DO UPDATE SET token = EXCLUDED.token, redeemed_at = now()",
    "upsert by a token that is there": "INSERT INTO tickets_ticket (token) "
    "SELECT token FROM tickets_ticket WHERE id = %(pk)s "
    "ON CONFLICT (token) DO UPDATE SET redeemed_at = now()",
    "upsert by a new token": "INSERT INTO tickets_ticket (token) VALUES (%(new)s) "
    "ON CONFLICT (token) DO UPDATE SET redeemed_at = now()",
    "insert if there is none": "INSERT INTO tickets_ticket (token) VALUES (%(new)s) "
    "ON CONFLICT DO NOTHING",
    "merge into a row": "MERGE INTO tickets_ticket AS t USING (VALUES (%(pk)s)) AS v (id) "
    "ON t.id = v.id WHEN MATCHED THEN UPDATE SET token = %(new)s, redeemed_at = now() "
    "WHEN NOT MATCHED THEN INSERT (token) VALUES (%(new)s)",
    "merge a new row": "MERGE INTO tickets_ticket AS t USING (VALUES (%(new)s)) AS v (token) "
    "ON t.token = v.token WHEN MATCHED THEN UPDATE SET redeemed_at = now() "
    "WHEN NOT MATCHED THEN INSERT (token) VALUES (v.token)",
    "merge a row away": "MERGE INTO tickets_ticket AS t USING (VALUES (%(pk)s)) AS v (id) "
    "ON t.id = v.id WHEN MATCHED THEN DELETE",
    "move a row": "WITH gone AS (DELETE FROM tickets_ticket WHERE id = %(pk)s RETURNING id) "
    "INSERT INTO tickets_ticket (token) SELECT %(new)s FROM gone",
    "delete": "DELETE FROM tickets_ticket WHERE id = %(pk)s",
}
STATEMENTS_WITH_THE_SHADOW: Mapping[str, str] = {
    "insert a shadow": "INSERT INTO tickets_ticket (token, new_token) VALUES (%(new)s, %(other)s)",
    "insert no shadow": "INSERT INTO tickets_ticket (token, new_token) VALUES (%(new)s, NULL)",
    "update the shadow": "UPDATE tickets_ticket SET new_token = %(other)s WHERE id = %(pk)s",
    "null the shadow": "UPDATE tickets_ticket SET new_token = NULL WHERE id = %(pk)s",
    "update both": "UPDATE tickets_ticket SET token = %(new)s, new_token = %(other)s "
    "WHERE id = %(pk)s",
    "upsert both": "INSERT INTO tickets_ticket (id, token, new_token) "
    "VALUES (%(pk)s, %(new)s, %(other)s) ON CONFLICT (id) DO UPDATE "
    "SET token = EXCLUDED.token, new_token = EXCLUDED.new_token",
    "merge both": "MERGE INTO tickets_ticket AS t USING (VALUES (%(pk)s)) AS v (id) "
    "ON t.id = v.id WHEN MATCHED THEN UPDATE SET token = %(new)s, new_token = %(other)s",
}


Write = Callable[[Release, int], bool]
BY_ORM: tuple[Write, ...] = (
    *(save_new, create, create_many, create_where_there_is_none, create_or_renew),
    *(save_all_fields, save_one_field, save_another_token, save_a_copy),
    *(save_what_was_loaded_before, lock_and_redeem, get_or_create, update_or_create),
    *(update, update_all, update_the_token, update_many, delete, delete_many, copy_in),
)
BY_ORM_WITH_THE_SHADOW: tuple[Write, ...] = (save_no_shadow, save_a_shadow, create_with_a_shadow)


def every_write(release: Release) -> Iterator[tuple[str, Write]]:
    """Yield every kind of write that a release can make, by name."""
    knows = release.knows_the_shadow
    for write in (*BY_ORM, *(BY_ORM_WITH_THE_SHADOW if knows else ())):
        yield write.__name__, write
    for name, statement in {**STATEMENTS, **(STATEMENTS_WITH_THE_SHADOW if knows else {})}.items():
        # PostgreSQL 15 brought MERGE.
        if server_version() >= 15 or not statement.startswith("MERGE"):
            yield name, by_sql(statement)


def by_sql(statement: str) -> Write:
    def write(site: Release, pk: int) -> bool:
        with connections[site.role].cursor() as cursor:
            cursor.execute(statement, {"pk": pk, "new": new_token(), "other": new_token()})
            return int(cursor.rowcount) == 1

    return write


def try_write(site: Release, write: Write) -> str | None:
    """Write in a transaction that is rolled back; return what went wrong, if anything."""
    try:
        with transaction.atomic(using=site.role):
            written = write(site, site.tickets.earliest("id").pk)
            with connections[site.role].cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            transaction.set_rollback(True, using=site.role)
    except DatabaseError as error:
        return primary_message(error)
    return None if written else "was not written"


@contextmanager
def two_releases(database: Database) -> Iterator[tuple[Release, Release]]:
    """Within this context releases N and N+1 have sessions on a database of tickets."""
    usual = connections["default"].settings_dict
    with ExitStack() as stack:
        for name, rights in RIGHTS.items():
            stack.enter_context(role(database, name))
            database.run(f"GRANT {rights} ON tickets_ticket TO {name}")
            # A write that waits for the play in the same process would wait for ever.
            options = {"options": f"-c role={name} -c lock_timeout=10s"}
            connections.databases[name] = {**usual, "OPTIONS": options}
        try:
            yield Release("site_n", TicketOfReleaseN), Release("site_n1", Ticket)
        finally:
            for name in RIGHTS:
                connections[name].close()
                del connections[name]
                del connections.databases[name]
