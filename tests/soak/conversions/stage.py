"""What a history of a conversion needs: a table, two sessions, the plays, and the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import psycopg
from django.db import DatabaseError, connection, transaction
from hypothesis.stateful import RuleBasedStateMachine
from psycopg import sql

from migrations_playbook.backfill.pacing.pace import Pace
from migrations_playbook.backfill.play import Options, backfill
from migrations_playbook.contract.play import contract, installed_triggers
from migrations_playbook.errors import PlaybookError, TryAgain, VerificationFailed
from migrations_playbook.postgres.tables import Table, read_table
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.play import mend, swap, verify
from migrations_playbook.swap.reports import Converted
from tests.fixtures.database import Database
from tests.fixtures.models_zoo import add_shadow
from tests.soak.conversions.oracle import SITE, Books, Row
from tests.soak.conversions.subjects import SUBJECTS, Unfit, Value
from tests.soak.oracle import insist
from tests.soak.stage import Undo
from tests.soak.statements import session_ended

# What a session may have set; a write picks one of each.
SETTINGS = {
    "TimeZone": ("UTC", "Asia/Tokyo", "America/New_York"),
    "DateStyle": ("ISO, MDY", "German, DMY"),
    "IntervalStyle": ("postgres", "iso_8601", "sql_standard"),
    "extra_float_digits": ("1", "-10"),
    "bytea_output": ("hex", "escape"),
    "search_path": ("public", "hostile, public, pg_catalog"),
}
HOSTILE = """
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'hostile' $$;
CREATE FUNCTION hostile.md5(text) RETURNS text LANGUAGE sql AS $$ SELECT 'hostile' $$;
CREATE FUNCTION hostile.btrim(text) RETURNS text LANGUAGE sql AS $$ SELECT 'hostile' $$;
"""


class Stage(RuleBasedStateMachine):
    """One table, a session of the site, Django's session for the plays, and the books.

    Arguments:
        database: where all histories are played, one after the other.
        made: how many steps of each kind all histories have made.
    """

    database: ClassVar[Database]
    made: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.session = self.database.connect(autocommit=True)
        self.stale: list[tuple[int, dict[str, Value]]] = []
        self.replacement: Replacement | None = None
        self.contracted = False
        self.notes = self.last = 0

    def teardown(self) -> None:
        try:
            if self.replacement is not None and not self.contracted:
                self.prove()
        finally:
            self.session.close()
            connection.close()

    def make_table(self, name: str, *, rows: int, site: bool) -> None:
        """Make the table with rows of release N, then expand it."""
        self.name, self.books = name, Books(SUBJECTS[name], site)
        self.subject = self.books.subject
        self.table = self.subject.model._meta.db_table
        self.session.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        with connection.schema_editor() as editor:
            editor.create_model(self.subject.model)
            shadow: Any = self.subject.model._meta.get_field("value_new")
            editor.remove_field(self.subject.model, shadow)
        if site:
            self.add_site_trigger()
        for which in range(rows):
            value = self.subject.texts[0][which % len(self.subject.texts[0])]
            self.insert_past(self.subject.older(value))
        self.replacement = add_shadow(self.subject.model, self.subject.shadow)
        self.compare()

    def add_site_trigger(self) -> None:
        """Let a trigger of the site's own write the live column, before ours."""
        text = self.subject.older(self.subject.texts[0][0])
        self.session.execute(
            "CREATE FUNCTION a_site() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF NEW.note = '{SITE}' THEN NEW.value := '{text}'; END IF; "
            "RETURN NEW; END $$"
        )
        self.session.execute(
            f"CREATE TRIGGER a_site BEFORE INSERT OR UPDATE ON {self.table} FOR EACH ROW "
            "EXECUTE FUNCTION a_site()"
        )

    # The plays.

    def backfill(self) -> None:
        options = replace(Options.plain(), pace=Pace(batch_size=1))
        for _ in backfill(self.bound, using="default", options=options):
            pass

    def swap(self) -> None:
        for _ in swap(self.bound, using="default", revert=self.books.swapped):
            pass

    def mend(self) -> None:
        for _ in mend(self.bound, using="default"):
            pass

    def contract(self) -> None:
        triggers = installed_triggers(connection, self.bound.identifier, "value_new")
        table = self.bound.identifier
        with transaction.atomic():
            contract(connection, table, live="value_new", shadow="value", triggers=triggers)

    def prove(self) -> None:
        """The proof finds what is out of step, and what a revert would lose, and nothing else."""
        rows = self.books.rows.values()
        if not (self.books.swapped or (self.subject.shadow.moves and self.books.is_filled())):
            return
        try:
            *_, verified = verify(self.bound, using="default")
        except VerificationFailed:
            insist(any(map(self.books.is_out_of_step, rows)), "the proof has failed")
            return
        assert isinstance(verified, Converted)
        insist(not any(map(self.books.is_out_of_step, rows)), "the proof has passed")
        insist(verified.no_way_back == sum(map(self.books.is_lost, rows)), "no way back")

    def play(self, name: str, action: Callable[[], None], killed: int | None) -> str:
        """Play; return the name of the error, or `done`; `TryAgain` where the session was ended."""
        code = "done"
        try:
            with session_ended(self.database, killed):
                action()
        except (PlaybookError, DatabaseError) as error:
            refused = isinstance(error, PlaybookError) and not isinstance(error, TryAgain)
            code = type(error).__name__ if refused else "TryAgain"
            insist(refused or killed, f"{name}: {error}")
        self.made[f"{name}: {code}"] += 1
        return code

    # Writes and reads.

    @property
    def bound(self) -> Replacement:
        assert self.replacement is not None
        return self.replacement

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.table)

    def note(self, alien: int) -> str:
        self.notes += 1
        return SITE if alien % 7 == 0 else f"note {self.notes}"

    def pick(self, which: int) -> int | None:
        ids = sorted(self.books.rows)
        return ids[which % len(ids)] if ids and not self.contracted else None

    def change(self, pk: int, given: dict[str, Value], *, alien: int, undone: bool) -> None:
        """Update a row."""
        note = self.note(alien)
        every = {name: sql.Literal(value) for name, value in {**given, "note": note}.items()}
        statement = sql.SQL("UPDATE {} SET {} WHERE id = {}").format(
            self.identifier, assign(every), sql.Literal(pk)
        )

        def expected() -> Row:
            old = self.books.rows[pk]
            return self.books.sync(old, {**self.books.named(old), **given}, note)

        self.write(
            pk, lambda: self.session.execute(statement), expected, alien=alien, undone=undone
        )

    def write(
        self,
        pk: int,
        action: Callable[[], Any],
        expected: Callable[[], Row],
        *,
        alien: int,
        undone: bool,
    ) -> None:
        """Write in a session with settings of its own, or in a savepoint that is rolled back."""
        if self.contracted:
            return
        try:
            row: Row | None = expected()
        except Unfit:
            row = None
        refused = False
        try:
            with self.session.transaction():
                for number, (name, values) in enumerate(SETTINGS.items()):
                    value = values[(alien >> number) % len(values)]
                    self.session.execute("SELECT set_config(%s, %s, true)", [name, value])
                with suppress(Undo), self.session.transaction():
                    action()
                    if undone:
                        raise Undo
        except (psycopg.IntegrityError, psycopg.DataError):
            refused = True
        insist(
            (row is None) == refused, f"{self.name}, row {pk}: {'' if refused else 'not'} refused"
        )
        if refused:
            # A count is not taken back, and how far the statement came nobody can tell.
            self.books.overruled = self.count()
        elif row is not None and not undone:
            self.books.rows[pk] = row
        what = "refused write" if refused else "write"
        self.made[f"{what} while {'swapped' if self.books.swapped else 'expanded'}"] += 1
        self.compare()

    def insert_past(self, value: Value) -> None:
        """Insert a row that no trigger sees."""
        self.last += 1
        pk = 1000 + self.last
        self.past("INSERT INTO {} (id, note, value) VALUES ({}, '', {})", pk, value)
        self.books.rows[pk] = self.books.row(value, None, "")

    def past(self, statement: Any, *literals: Any) -> None:
        with self.database.connect() as session:
            session.execute("SET session_replication_role = replica")
            values = map(sql.Literal, literals)
            session.execute(sql.SQL(statement).format(self.identifier, *values))

    def read(self, named: Books | None = None) -> dict[int, Row]:
        """Read the whole table.

        Arguments:
            named: books that know which column has which name; without, those of the history.
        """
        books = named or self.books
        shadow = "value_new::text" if self.replacement is not None else "NULL"
        rows = self.session.execute(f"SELECT id, value::text, {shadow}, note FROM {self.table}")  # noqa: S608 - a test's table
        return {pk: books.row(live, other, note) for pk, live, other, note in rows}

    def read_table(self) -> Table:
        table = read_table(connection, self.bound.identifier)
        assert table is not None
        return table

    def count(self) -> int:
        """Count the disagreements as the status does."""
        return int(self.bound.conversion.count_disagreements(connection, self.read_table()))

    def compare(self) -> None:
        """Insist that the table holds what it must."""
        if self.contracted:
            return
        seen = self.read()
        insist(seen.keys() == self.books.rows.keys(), "rows")
        for pk, row in self.books.rows.items():
            insist(seen[pk] == row, f"{self.name}, row {pk}: {seen[pk]}, not {row}")
        if self.replacement is not None:
            insist(self.count() == self.books.overruled, f"{self.name}: {self.count()} overruled")


def assign(values: Mapping[str, sql.Composable]) -> sql.Composed:
    """Compose what an UPDATE sets."""
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in values.items()
    )
