"""One command for the same table in several schemas: tenants, in turn, and a summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError

from migrations_playbook.errors import REFUSED, PlaybookError, Refused, Stopped
from migrations_playbook.management.base import ShadowCommand, Target
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import find_schemas
from migrations_playbook.replacement import Replacement, find_elsewhere


def add_schema(parser: CommandParser) -> None:
    """Add the option that names the schemas."""
    parser.add_argument(
        "--schema",
        action="append",
        metavar="NAME",
        help="The table's schema, where each tenant has one; 'tenant_*' stands for all that match, "
        "in turn. May be given more than once.",
    )


def choose_schemas(
    replacement: Replacement, patterns: Iterable[str], *, using: str
) -> Iterator[Replacement]:
    """Bind a replacement to each schema that has its table and is asked for.

    Lock: none; the catalog alone is read.

    Arguments:
        patterns: names of schemas; `*`, `?` and `[...]` stand for characters as in a shell.
        using: the database alias.

    Raises:
        Refused: the model names a schema itself; or no schema with the table is called so.
    """
    *schema, table = replacement.table_parts
    if schema:
        raise Refused(
            f"{replacement.label} names its schema, {schema[0]}, in db_table: leave --schema out."
        )
    there = find_schemas(postgresql(using), table, replacement.live)
    wanted: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in there if name == pattern or fnmatchcase(name, pattern)]
        if not found:
            known = ", ".join(there) or "none"
            raise Refused(
                f"No schema called {pattern} has a table {table} with a column "
                f"{replacement.live}. There are: {known}."
            )
        wanted |= dict.fromkeys(found)
    for name in wanted:
        yield replace(replacement, schema=name)


class SchemaCommand(ShadowCommand):
    """A command for a shadow column, in the session's schema or in several in turn."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # In turn the results are collected by schema, and printed as one object.
        self._schema: str | None = None
        self._results: dict[str, Any] = {}

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --schema."""
        super().add_arguments(parser)
        add_schema(parser)

    def handle(
        self,
        *,
        database: str,
        target: Target | None = None,
        schema: list[str] | None = None,
        **options: Any,
    ) -> None:
        """Play for the column, or for each of its schemas."""
        replacement = self.replacement(target, database)
        if (elsewhere := find_elsewhere(replacement, using=database)) is not None:
            raise Refused(elsewhere)
        if not schema:
            self.act(replacement, database=database, **options)
            return
        chosen = list(choose_schemas(replacement, schema, using=database))
        if len(chosen) == 1:
            self.act(chosen[0], database=database, **options)
        else:
            self.act_in_turn(chosen, database=database, **options)

    def act(self, *args: Any, **options: Any) -> None:
        """Play for one replacement, the only positional argument, with the command's options."""
        raise NotImplementedError

    def is_done(self, replacement: Replacement, *, database: str, **options: Any) -> bool:
        """Tell whether nothing is left to play for one of several schemas."""
        return False

    def act_in_turn(
        self, replacements: list[Replacement], *, database: str, json: bool, **options: Any
    ) -> None:
        """Play for one replacement after the other; a failure keeps no other from its turn.

        Raises:
            CommandError: any has failed; names each with its reason.
        """
        failed: dict[str, PlaybookError] = {}
        for each in replacements:
            self._schema, self.result = each.schema, {}
            if not json:
                self.stdout.write(f"Schema {each.schema}:")
            try:
                if self.is_done(each, database=database, **options):
                    self._note("note", "Nothing is left to do.", json=json)
                else:
                    self.act(each, database=database, json=json, **options)
            except Stopped:
                raise
            except PlaybookError as error:
                failed[each.schema] = error
            except DatabaseError as error:
                failed[each.schema] = self.explain(error)
            if each.schema in failed:
                self._note("error", str(failed[each.schema]), json=json)
        self._schema, self.result = None, {"schemas": self._results}
        done = len(replacements) - len(failed)
        if failed:
            reasons = " ".join(f"{schema}: {error}" for schema, error in failed.items())
            codes = {error.exit_code for error in failed.values()}
            raise CommandError(
                f"{done} of {len(replacements)} schemas are done. {reasons}",
                returncode=codes.pop() if len(codes) == 1 else REFUSED,
            )
        if json:
            self.say_json(self.result)
        else:
            self.stdout.write(f"All {done} schemas are done.")

    def _note(self, name: str, text: str, *, json: bool) -> None:
        """Say a sentence about the schema whose turn it is; `name` is its key in JSON."""
        if json:
            self.say_json(self.result | {name: text})
        else:
            self.stdout.write(text)

    def say_json(self, result: object) -> None:
        """Print the result as JSON, or keep it while schemas take their turns."""
        if self._schema is None:
            super().say_json(result)
        else:
            self._results[self._schema] = result
