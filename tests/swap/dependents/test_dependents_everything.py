"""Everything at once: carried over, the same for an application's role, and carried back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from django.core.management import call_command
from django.db import connection

from tests.fixtures.database import Database, role
from tests.fixtures.dumps import statements
from tests.fixtures.server import server_version
from tickets.models import Ticket

ROLES = ("zoo_app", "zoo_auditor", "zoo_reporter")

EVERYTHING = """
CREATE SCHEMA zoo;
CREATE FUNCTION zoo.token(uuid) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1::text';
CREATE TABLE zoo.log (said uuid);
ALTER TABLE tickets_ticket ADD COLUMN venue int NOT NULL DEFAULT 1;
CREATE UNIQUE INDEX zoo_identity ON tickets_ticket (token, venue);
ALTER TABLE tickets_ticket REPLICA IDENTITY USING INDEX zoo_identity;
CREATE INDEX zoo_partial ON tickets_ticket (venue, token DESC NULLS LAST)
    INCLUDE (redeemed_at, token) WITH (fillfactor = 71) WHERE token IS NOT NULL AND venue > 0;
CREATE INDEX zoo_expression ON tickets_ticket
    (zoo.token(token) COLLATE "C" text_pattern_ops, lower('token' || venue), length(token::text));
ALTER INDEX zoo_expression ALTER COLUMN 1 SET STATISTICS 77;
CREATE INDEX zoo_hash ON tickets_ticket USING hash (token);
CREATE INDEX zoo_both ON tickets_ticket (token, new_token);
CREATE INDEX zoo_shadow ON tickets_ticket (new_token, venue);
ALTER TABLE tickets_ticket CLUSTER ON zoo_identity;
COMMENT ON INDEX zoo_hash IS 'by hash';
ALTER TABLE tickets_ticket ADD CONSTRAINT zoo_unique UNIQUE (venue, token)
    DEFERRABLE INITIALLY DEFERRED;
COMMENT ON CONSTRAINT zoo_unique ON tickets_ticket IS 'one a venue';
ALTER TABLE tickets_ticket ADD CONSTRAINT zoo_check
    CHECK (zoo.token(token) <> 'token' AND venue > 0);
ALTER TABLE tickets_ticket ADD CONSTRAINT zoo_unproven
    CHECK (token <> '00000000-0000-0000-0000-000000000000') NOT VALID;
COMMENT ON CONSTRAINT zoo_check ON tickets_ticket IS 'never the word';
ALTER TABLE tickets_ticket ALTER COLUMN token SET DEFAULT gen_random_uuid();
ALTER TABLE tickets_ticket ALTER COLUMN token SET STATISTICS 333;
ALTER TABLE tickets_ticket ALTER COLUMN token SET (n_distinct = -1);
COMMENT ON COLUMN tickets_ticket.token IS 'who knows it gets in';
CREATE VIEW zoo.plain WITH (security_barrier = true) AS SELECT id, token FROM tickets_ticket;
CREATE VIEW zoo.checked AS SELECT id, token AS secret, venue FROM tickets_ticket
    WHERE token IS NOT NULL WITH LOCAL CHECK OPTION;
CREATE VIEW zoo.above AS SELECT p.token, c.secret, c.venue
    FROM zoo.plain p JOIN zoo.checked c USING (id);
CREATE VIEW zoo.star AS SELECT * FROM tickets_ticket;
CREATE VIEW zoo.aggregate AS SELECT count(DISTINCT token) AS tokens FROM tickets_ticket;
CREATE VIEW zoo."50%s" AS SELECT token AS "100%" FROM tickets_ticket
    WHERE token::text LIKE '%a%' OR true;
CREATE INDEX "zoo_%d" ON tickets_ticket (token) WHERE token::text LIKE '%a%';
COMMENT ON VIEW zoo.plain IS 'for reports';
ALTER VIEW zoo.plain OWNER TO zoo_reporter;
CREATE RULE zoo_rule AS ON INSERT TO zoo.plain DO ALSO
    INSERT INTO zoo.log SELECT token FROM tickets_ticket WHERE id = NEW.id;
CREATE RULE zoo_update AS ON UPDATE TO tickets_ticket WHERE NEW.token <> OLD.token
    DO ALSO INSERT INTO zoo.log VALUES (NEW.token);
CREATE POLICY zoo_policy ON tickets_ticket FOR SELECT TO zoo_app
    USING (token = current_setting('zoo.token', true)::uuid OR venue = 7);
CREATE POLICY zoo_write ON tickets_ticket FOR ALL TO zoo_reporter USING (true)
    WITH CHECK (token IS NOT NULL);
CREATE POLICY zoo_elsewhere ON zoo.log TO zoo_app
    USING (EXISTS (SELECT FROM tickets_ticket t WHERE t.token = said));
COMMENT ON POLICY zoo_policy ON tickets_ticket IS 'your own';
ALTER TABLE tickets_ticket ENABLE ROW LEVEL SECURITY;
CREATE STATISTICS zoo.correlated (dependencies, mcv) ON token, venue FROM tickets_ticket;
CREATE STATISTICS zoo.expressed ON zoo.token(token) FROM tickets_ticket;
ALTER STATISTICS zoo.correlated SET STATISTICS 55;
COMMENT ON STATISTICS zoo.correlated IS 'they go together';
CREATE FUNCTION zoo.note() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO zoo.log VALUES (NEW.token); RETURN NEW; END';
CREATE TRIGGER zoo_update_of AFTER UPDATE OF token ON tickets_ticket
    FOR EACH ROW EXECUTE FUNCTION zoo.note();
CREATE TRIGGER zoo_when AFTER INSERT ON tickets_ticket FOR EACH ROW
    WHEN (NEW.token IS NULL) EXECUTE FUNCTION zoo.note();
ALTER TABLE tickets_ticket ENABLE ALWAYS TRIGGER zoo_update_of;
ALTER TABLE tickets_ticket DISABLE TRIGGER zoo_when;
COMMENT ON TRIGGER zoo_update_of ON tickets_ticket IS 'note it';
CREATE FUNCTION zoo.by_id(wanted bigint) RETURNS uuid LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT token FROM tickets_ticket WHERE id = wanted; END;
CREATE MATERIALIZED VIEW zoo.copies WITH (fillfactor = 80) AS SELECT id, token
    FROM tickets_ticket;
CREATE UNIQUE INDEX zoo_copies ON zoo.copies (token);
GRANT SELECT ON zoo.copies TO zoo_app;
COMMENT ON MATERIALIZED VIEW zoo.copies IS 'copied at night';
CREATE MATERIALIZED VIEW zoo.copies_of_view AS SELECT secret AS token FROM zoo.checked;
CREATE UNIQUE INDEX zoo_copies_of_view ON zoo.copies_of_view (token);
GRANT USAGE ON SCHEMA zoo TO zoo_app, zoo_auditor, zoo_reporter;
GRANT SELECT (id, token, venue), UPDATE (token), INSERT (token) ON tickets_ticket TO zoo_app;
GRANT SELECT (token) ON tickets_ticket TO zoo_auditor WITH GRANT OPTION;
GRANT SELECT (new_token), SELECT (id) ON tickets_ticket TO zoo_reporter;
GRANT SELECT ON zoo.above, zoo.plain TO zoo_app;
SET ROLE zoo_auditor;
GRANT SELECT (token) ON tickets_ticket TO zoo_reporter;
RESET ROLE;
"""
SINCE_15 = """
ALTER TABLE tickets_ticket ADD CONSTRAINT zoo_include UNIQUE NULLS NOT DISTINCT (token)
    INCLUDE (venue);
CREATE VIEW zoo.invoker WITH (security_invoker = true) AS SELECT token FROM tickets_ticket;
CREATE PUBLICATION zoo_listed FOR TABLE tickets_ticket (id, token, venue) WHERE (token IS NOT NULL);
"""


@pytest.fixture
def roles(database: Database) -> Iterator[Database]:
    with ExitStack() as stack:
        # Left in their order: a right that one has given to the next goes with the giver.
        for each in reversed(ROLES):
            stack.enter_context(role(database, each))
        yield database


@pytest.fixture
def everything(roles: Database) -> Database:
    with connection.cursor() as cursor:
        cursor.execute(EVERYTHING)
        if server_version() >= 15:
            cursor.execute(SINCE_15)
    for _ in range(3):
        Ticket.objects.create()
    roles.run("REFRESH MATERIALIZED VIEW zoo.copies")
    roles.run("REFRESH MATERIALIZED VIEW zoo.copies_of_view")
    return roles


def test_everything_that_is_bound_to_the_column_is_carried_over_and_back(
    everything: Database,
) -> None:
    before = everything.dump()
    leaked = {row[0] for row in everything.fetch("SELECT token FROM tickets_ticket")}
    call_command("swap_token_columns", refresh_materialized_views=True)
    for query in (
        "SELECT token FROM zoo.plain",
        "SELECT secret FROM zoo.checked",
        *(["SELECT token FROM zoo.invoker"] if server_version() >= 15 else []),
        "SELECT token FROM zoo.above",
        "SELECT token FROM zoo.star",
        "SELECT token FROM zoo.copies",
        "SELECT token FROM zoo.copies_of_view",
        "SELECT zoo.by_id(id) FROM tickets_ticket",
    ):
        shown = {row[0] for row in everything.fetch(query)}
        assert len(shown) == 3
        assert not shown & leaked, query
    # An index on the shadow column alone shows nobody anything, and stays where it is.
    table = "CREATE TABLE public.tickets_ticket"
    gone = statements(before, besides=table) - statements(everything.dump(), besides=table)
    assert {each for each in gone if "zoo_shadow" not in each} == set()
    call_command("swap_token_columns", revert=True, refresh_materialized_views=True)
    assert everything.dump() == before
