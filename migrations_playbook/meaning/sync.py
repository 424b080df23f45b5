"""The triggers of a conversion: each column follows the other.

One function, for INSERT and for UPDATE. NEW is compared with OLD column by column: Django's save()
writes every field, so `UPDATE OF` tells nothing. (Of an INSERT, OLD is null throughout.)

- The live column was written: the shadow is made from it.
- The shadow was written: the live column is made from it.
- Both were, and agree: they stay. They do not agree: the side that has the name wins, and a
  sequence counts it. (A new row's live value that is the column's default was not written.)
- Neither was: nothing is touched. What has not changed is never made again, because up and down
  need not give back the same value.

A stale save, of an object that was loaded before an exchange, leaves both as they are.

A shadow that is set to null alone comes from an object that was loaded before the row was filled:
the shadow stays. A value that cannot be converted leaves null on the other side, and never fails
the write.

Which column has the name is told by their types, or by their numbers where the types are the same
(see `Table.has_exchanged`), so the text means the same before and after an exchange, and when
somebody installs the triggers anew. The exchange
makes the triggers anew too, and a session compiles a function once for each trigger: no session
goes on with a plan for the other type.

Must be the last BEFORE trigger that writes these columns: PostgreSQL fires them by name.
"""

from __future__ import annotations

import json
from typing import Any

import pgtrigger
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import sql

from migrations_playbook.meaning.base import ShadowTrigger
from migrations_playbook.meaning.expressions import (
    SOURCE,
    CompiledExpression,
    Model,
    compare_bytes,
    is_exact,
    output_field,
    resolve,
    write_cast,
    write_expression,
)
from migrations_playbook.postgres.names import base_type, column_of
from migrations_playbook.trigger_sql import SyncTriggerSql

# Set by the backfill in its own transactions: the fills of its own need not be followed, or each
# row is to be converted by the trigger, which leaves null where that fails.
FILLING = "migrations_playbook.filling"
PLAIN, CAREFUL = "plain", "careful"

# Types that are the same along every path, and that `pg_typeof` calls so.
PLAIN_TYPES = {"smallint", "integer", "bigint", "numeric", "real", "double precision", "boolean"}
PLAIN_TYPES |= {"text", "varchar", "uuid", "bytea", "jsonb", "inet", "date", "time", "interval"}
PLAIN_TYPES |= {"timestamp", "timestamp with time zone"}
# Which column has the name, where only the catalog tells: three times as slow as its type.
EXCHANGED = """(
    SELECT l.attnum > s.attnum
      FROM pg_catalog.pg_attribute l
      JOIN pg_catalog.pg_attribute s ON s.attrelid = l.attrelid AND s.attname = {shadow_name}
     WHERE l.attname = {live_name}
       AND l.attrelid = coalesce(pg_catalog.pg_partition_root(TG_RELID)::oid, TG_RELID))"""

BODY = """-- migrations_playbook: {declared}
{refuse_stale}exchanged := {exchanged};
live_written := {live_changed}
    OR TG_OP = 'INSERT' AND NEW.{shadow} IS NULL
    OR current_setting('{filling}', true) = '{careful}';
shadow_written := NEW.{shadow} IS NOT NULL AND {shadow_changed};
IF live_written AND shadow_written THEN
    BEGIN
        IF exchanged THEN agree := {agree_exchanged};
        ELSE agree := {agree};
        END IF;
    EXCEPTION WHEN OTHERS THEN
        agree := false;
    END;
    IF agree THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT'{where_a_way_leads} THEN
        {skip_default}
    END IF;
    PERFORM nextval(c.oid::regclass)
       FROM pg_catalog.pg_trigger t
       JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
       JOIN pg_catalog.pg_class c
         ON c.relkind = 'S' AND c.relname = p.proname AND c.relnamespace = p.pronamespace
      WHERE live_written AND t.tgrelid = TG_RELID AND t.tgname = TG_NAME
        AND pg_catalog.has_sequence_privilege(c.oid, 'USAGE');
END IF;
IF live_written THEN
    BEGIN
        IF exchanged THEN NEW.{shadow} := {down_live};
        ELSE NEW.{shadow} := {up_live};
        END IF;
    EXCEPTION WHEN OTHERS THEN
        NEW.{shadow} := NULL;
    END;
ELSIF shadow_written THEN
    BEGIN
        IF exchanged THEN NEW.{live} := {up_shadow};
        ELSE {follow_shadow}
        END IF;
    EXCEPTION WHEN OTHERS THEN
        NEW.{live} := NULL;
    END;
ELSE
    NEW.{shadow} := OLD.{shadow};
END IF;
RETURN NEW;"""

# PostgreSQL does not say whether a new row's value was given, or is the column's default. Beside a
# shadow that was given and does not agree, the default is taken for what it is. (Each partition may
# have a default of its own, for a row that is inserted into it by its name.)
SKIP_DEFAULT = """FOR its_default IN
            SELECT pg_catalog.format('CAST(%s AS %s)',
                       coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid),
                                pg_catalog.pg_get_expr(y.typdefaultbin, 0)),
                       pg_catalog.format_type(a.atttypid, a.atttypmod))
              FROM pg_catalog.pg_attribute a
              JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
              LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE a.attname = {live_name} AND a.attrelid IN (
                       SELECT TG_RELID UNION SELECT pg_catalog.pg_partition_ancestors(TG_RELID))
               AND coalesce(d.adbin, y.typdefaultbin) IS NOT NULL
        LOOP
            BEGIN
                EXECUTE 'SELECT $1 IS NOT DISTINCT FROM ' || its_default
                   INTO agree USING NEW.{live};
            EXCEPTION WHEN OTHERS THEN
                agree := false;
            END;
            live_written := live_written AND NOT agree;
        END LOOP;"""

# An object that was loaded before an exchange, or before a revert, is saved after it.
STALE = """IF NEW.{live} = OLD.{shadow}{collation} AND {live_changed} AND ({had_both}) THEN
    NEW.{live} := OLD.{live};
    NEW.{shadow} := OLD.{shadow};
    RETURN NEW;
END IF;
"""


class SyncTrigger(ShadowTrigger):
    """A trigger that keeps the two columns in step."""

    sql_class = SyncTriggerSql

    def get_declare(self, model: Any) -> list[tuple[str, str]]:
        """Return the function's variables."""
        names = ("exchanged", "live_written", "shadow_written", "agree")
        return [*((name, "boolean") for name in names), ("its_default", "text")]

    def get_func(self, model: Any) -> str:
        """Return the body."""
        names = self.names(model)
        live, shadow = (f"NEW.{names[role]}" for role in ("live", "shadow"))
        up, down = (Maker.of(model, self.declaration, way) for way in ("up", "down"))
        agree, agree_exchanged = [up.explains(shadow, live)], [up.explains(live, shadow)]
        if down.declared:
            agree.append(down.explains(live, shadow))
            agree_exchanged.append(down.explains(shadow, live))
        columns = {
            "live": column_of(model, self.declaration.live),
            "shadow": column_of(model, self.declaration.shadow),
        }
        return BODY.format(
            refuse_stale=self.refuse_stale(model, up, down),
            declared=json.dumps(columns | self._describe_ways(up, down)),
            # Both names are served, and nothing is ever exchanged.
            exchanged="false" if self.declaration.moves else _write_exchanged(up, live, columns),
            filling=FILLING,
            careful=CAREFUL,
            agree=" OR ".join(agree),
            agree_exchanged=" OR ".join(agree_exchanged),
            # Elsewhere the shadow would be made of the default all the same.
            where_a_way_leads="" if down.declared else " AND exchanged",
            skip_default=SKIP_DEFAULT.format(
                live_name=sql.Literal(columns["live"]).as_string(None), **names
            ),
            up_live=up(live),
            up_shadow=up(shadow),
            down_live=down(live),
            # Without a way down the shadow follows the live column again.
            follow_shadow=f"{live} := {down(shadow)};"
            if down.declared
            else f"{shadow} := {up(live)};",
            **self.changes(model),
            **names,
        )

    def _describe_ways(self, up: Maker, down: Maker) -> dict[str, Any]:
        """Describe the declaration, but for the columns' names; see `base.DECLARED`."""
        ways = {"up": up(SOURCE), "down": down(SOURCE) if down.declared else None}
        return ways | ({"moves": True} if self.declaration.moves else {})

    def refuse_stale(self, model: Any, up: Maker, down: Maker) -> str:
        """Write what keeps a stale save from exchanging the row's values back.

        Of two types a value is its own in either. Of one type the save has the other column's
        value; both of them, where its release knows both. Without a way down such a value can only
        be stale: a secret in the place of its digest.
        """
        names, collation = self.names(model), up.collation
        if self.declaration.moves or up.made_type != up.source_type:
            return ""
        had_both = f"NEW.{names['shadow']} IS NOT DISTINCT FROM OLD.{names['live']}{collation}"
        if not down.declared:
            had_both += f" OR NEW.{names['shadow']} IS NOT DISTINCT FROM OLD.{names['shadow']}"
        return STALE.format(had_both=had_both, collation=collation, **names, **self.changes(model))

    def changes(self, model: Any) -> dict[str, str]:
        """Write the conditions that a row's columns are written.

        What the type's equality calls the same may be a change: the case of a text, where the case
        has no meaning; the scale of a number. Then the bytes are compared, which takes longer.
        """
        fields = [
            model._meta.get_field(each) for each in (self.declaration.live, self.declaration.shadow)
        ]
        template = (
            "NEW.{0} IS DISTINCT FROM OLD.{0}"
            if all(map(is_exact, fields))
            else "pg_catalog.record_image_ne(ROW(NEW.{0}), ROW(OLD.{0}))"
        )
        names = self.names(model)
        return {f"{role}_changed": template.format(names[role]) for role in ("live", "shadow")}


class SyncInsertTrigger(SyncTrigger):
    """The trigger for new rows."""

    # Behind the others of django-pgtrigger, and behind most names.
    purpose = "zz_sync_new"
    operation = pgtrigger.Insert
    leads = True

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        """Return the WHEN: always, since up may make a value of null.

        It binds the trigger to the shadow column, which takes the trigger along when it is dropped.
        """
        return pgtrigger.Condition("true OR NEW.{shadow} IS NOT NULL".format(**self.names(model)))


class SyncUpdateTrigger(SyncTrigger):
    """The trigger for changed rows."""

    purpose = "zz_sync"
    operation = pgtrigger.Update

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        """Return the WHEN: either column is written, and not by a batch of the backfill.

        PostgreSQL evaluates WHEN without calling the function, for a save() that changes neither
        column as for a row of the backfill. It names no type, so that it means the same
        after an exchange.
        """
        return pgtrigger.Condition(
            "{live_changed} OR CASE current_setting('{filling}', true) WHEN '{plain}' THEN false "
            "WHEN '{careful}' THEN true ELSE {shadow_changed} END".format(
                filling=FILLING, plain=PLAIN, careful=CAREFUL, **self.changes(model)
            )
        )


class Maker:
    """A way up or down, to be written for any column of the right type.

    Arguments:
        model: the model.
        expression: the declared expression; None for no way.
        source: the field that it refers to.
        target: the field whose values it makes.
    """

    def __init__(self, model: Model, expression: Any, source: str, target: str) -> None:
        self.declared = expression is not None
        self._model, self._expression, self._source = model, expression, source
        self._target: Any = model._meta.get_field(target)

    @classmethod
    def of(cls, model: Model, declaration: Any, way: str) -> Maker:
        """Build the way up or down of a declaration."""
        ends = declaration.live, declaration.shadow
        source, target = ends if way == "up" else reversed(ends)
        return cls(model, getattr(declaration, way), source, target)

    def __call__(self, column: str) -> str:
        """Write what is made of a column; NULL where there is no way."""
        if not self.declared:
            return "NULL"
        text = write_expression(self._model, self._expression, {self._source: column})
        if isinstance(self._expression, CompiledExpression):
            return text
        return write_cast(text, output_field(resolve(self._model, self._expression)), self._target)

    @property
    def collation(self) -> str:
        """What compares two values that are made; see `compare_bytes`."""
        return compare_bytes(self._target)

    @property
    def made_type(self) -> str:
        """The type of the column that is made."""
        return base_type(self._target, connections[DEFAULT_DB_ALIAS])

    @property
    def source_type(self) -> str:
        """The type of the column that it is made of."""
        field: Any = self._model._meta.get_field(self._source)
        return base_type(field, connections[DEFAULT_DB_ALIAS])

    def explains(self, target: str, source: str) -> str:
        """Write the condition that one column is what is made of the other."""
        made = self(source)
        kind = self._target.db_type(connections[DEFAULT_DB_ALIAS]) or ""
        if "(" in kind and not self.collation:
            # As an assignment rounds to the column's scale. (Of a text too long it refuses to cut.)
            made = f"CAST({made} AS {kind})"
        return f"{target} IS NOT DISTINCT FROM ({made}){self.collation}"


def _write_exchanged(up: Maker, live: str, columns: dict[str, str]) -> str:
    """Write the question whether the names are exchanged: by the live column's type, if it tells.

    Arguments:
        up: the way from the older column to the newer one.
        live: the live column of the new row.
        columns: the two columns' names.
    """
    older, newer = up.source_type, up.made_type
    if older != newer and {older, newer} <= PLAIN_TYPES:
        return f"pg_catalog.pg_typeof({live}) = '{newer}'::pg_catalog.regtype"
    return EXCHANGED.format(
        live_name=sql.Literal(columns["live"]).as_string(None),
        shadow_name=sql.Literal(columns["shadow"]).as_string(None),
    )


def counts(function: str) -> bool:
    """Tell whether a trigger's function has a sequence of its name; see `SyncTriggerSql`."""
    return function.startswith(f"pgtrigger_{SyncUpdateTrigger.purpose}_")
