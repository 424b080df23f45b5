"""The meaning of a rotation that is played together with others of its table: of a `Group`.

A member of a group *draws* its shadow, as a shadow that stands alone does, or *follows*: its shadow
is made of the shadows of members before it, such as a checksum of its token. A follower has a value
where its own live column has one and its sources have theirs.

A batch fills all members by one UPDATE, so a row is to do while any member is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from migrations_playbook.meaning.base import name_columns, read_declared
from migrations_playbook.meaning.expressions import (
    Field,
    Model,
    compare_bytes,
    compose_text,
    output_field,
    read_references,
    resolve,
    write_cast,
    write_expression,
)
from migrations_playbook.meaning.rotation import Role, Rotation


@dataclass(frozen=True)
class GroupedRotation(Rotation):
    """The meaning of a member of a `Group`."""

    @property
    def members(self) -> tuple[GroupedRotation, ...]:
        """All members, in their order."""
        return list_members(self.model, self.declaration)

    @property
    def sources(self) -> tuple[GroupedRotation, ...]:
        """The members that the value is made of; none where the value is drawn."""
        names = read_references(self.declaration.value)
        return tuple(each for each in self.members if each.declaration.shadow in names)

    @property
    def lineage(self) -> tuple[GroupedRotation, ...]:
        """The member, its sources, and theirs."""
        behind = (each for source in self.sources for each in source.lineage)
        return tuple(dict.fromkeys((self, *behind)))

    @property
    def kin(self) -> tuple[GroupedRotation, ...]:
        """The members that are drawn and made together with this one, in their order."""
        kin: set[GroupedRotation] = {self}
        for _ in self.members:
            kin |= {one for each in self.members if kin & {*each.lineage} for one in each.lineage}
        return tuple(each for each in self.members if each in kin)

    @property
    def names(self) -> dict[str, str]:
        """The columns' names, quoted for a trigger; see `name_columns`."""
        return name_columns(self.model, self.declaration)

    @property
    def value(self) -> sql.SQL:
        """A value with the draws that it is made of, to see what such values are like."""
        return compose_text(self._draw())

    @property
    def evaluated(self) -> tuple[sql.Composable, ...]:
        """The values of all members."""
        return tuple(each.value for each in self.members)

    @property
    def to_do(self) -> sql.Composable:
        """The condition under which a row is still to be filled: it lacks a member's value."""
        return sql.SQL("({})").format(sql.SQL(" OR ").join(each.lacks for each in self.members))

    @property
    def lacks(self) -> sql.Composable:
        """The condition under which a row lacks the value of this member."""
        return sql.SQL("{} IS NULL AND {}").format(self.shadow, self.has_lives)

    @property
    def has_lives(self) -> sql.Composable:
        """The condition under which a row has a value of the member."""
        lives = (sql.SQL("{} IS NOT NULL").format(each.live) for each in self.lineage)
        return sql.SQL(" AND ").join(lives)

    @property
    def made(self) -> Field | None:
        """The field of the value's type; None where Django cannot tell."""
        value = self.declaration.value
        return output_field(resolve(self.model, value) if self.sources else value)

    @property
    def collation(self) -> str:
        """What compares two values of a text's type by their bytes; "" for another type."""
        field: Any = self.model._meta.get_field(self.declaration.shadow)
        return compare_bytes(field)

    def made_of(self, row: str, role: Role = "shadow") -> str:
        """Write the value in the column's type, made of the values of a row.

        Arguments:
            row: what stands before a column's name: `NEW.`, say.
            role: which column of each source is meant.
        """
        return self._write(lambda source: row + source.names[role])

    def is_astray(self, role: Role) -> sql.Composable:
        """Compose the condition that a row's value is not made of its sources'."""
        return sql.SQL("({has} AND {own} IS DISTINCT FROM ({made}){collation})").format(
            has=self.has_lives,
            own=getattr(self, role),
            made=compose_text(self.made_of("", role)),
            collation=sql.SQL(self.collation),
        )

    def assignment(self, *, careful: bool = False) -> sql.Composable:
        """Compose what a batch sets: what a row has of the members, and what it lacks."""
        return self.assign(
            {
                each: sql.SQL("CASE WHEN {} THEN coalesce({}, {}) END").format(
                    each.has_lives, each.shadow, each.value
                )
                for each in self.members
                if not each.sources
            }
        )

    def assign(self, drawn: Mapping[Any, sql.Composable]) -> sql.Composable:
        """Compose a SET of all members of a row, each follower made of what its sources are set to.

        The subqueries name the row's columns, so PostgreSQL runs them for each row; and what one of
        them draws it evaluates once, whoever refers to it. Instead of a value equal to the live one
        there is null, for the keep trigger to draw another.

        Arguments:
            drawn: what each member is set to that draws.
        """
        rows = sql.SQL("(SELECT {} OFFSET 0) AS drawn").format(
            sql.SQL(", ").join(
                sql.SQL("{} AS {}").format(value, each.shadow) for each, value in drawn.items()
            )
        )
        for each in self.members:
            if each.sources:
                rows = sql.SQL(
                    "(SELECT drawn.*, CASE WHEN {} THEN {} END AS {} FROM {}) AS drawn"
                ).format(each.has_lives, compose_text(each.made_of("drawn.")), each.shadow, rows)
        others = (
            sql.SQL("NULLIF(drawn.{}, {}{})").format(
                each.shadow, each.live, sql.SQL(each.collation)
            )
            for each in self.members
        )
        return sql.SQL("({}) = (SELECT {} FROM {})").format(
            sql.SQL(", ").join(each.shadow for each in self.members),
            sql.SQL(", ").join(others),
            rows,
        )

    def is_outdated(self, installed: str) -> bool:
        """Tell whether a fill trigger draws by other values than the model declares."""
        mine = describe_group(self.model, self.declaration)
        return super().is_outdated(installed) or read_declared(installed) not in ({}, mine)

    def _draw(self) -> str:
        return self._write(GroupedRotation._draw)

    def _write(self, spell: Callable[[GroupedRotation], str]) -> str:
        """Write the value in the column's type; see `Rotation.value`.

        Arguments:
            spell: writes what is meant by a source.
        """
        value, shadow = self.declaration.value, self.declaration.shadow
        text = write_expression(
            self.model, value, {each.declaration.shadow: spell(each) for each in self.sources}
        )
        field: Any = self.model._meta.get_field(shadow)
        return write_cast(text, self.made, field)


def list_members(model: Model, declaration: Any) -> tuple[GroupedRotation, ...]:
    """List the members of the group of a declaration, in their order."""
    return tuple(GroupedRotation(model, each) for each in declaration.members)


def mark_sources(shadows: Iterable[str]) -> dict[str, str]:
    """Number the shadow fields of a group: what stands for each in a value, and the field."""
    return {f"@source {place}@": shadow for place, shadow in enumerate(shadows)}


def describe_group(model: Model, declaration: Any) -> dict[str, Any]:
    """Describe a group by the names of its columns and the SQL of its values, for a trigger."""
    members = list_members(model, declaration)
    numbered = mark_sources(each.declaration.shadow for each in members)
    marks = {shadow: mark for mark, shadow in numbered.items()}
    columns = [each.column_names for each in members]
    values = [write_expression(model, each.declaration.value, marks) for each in members]
    return {
        "group": [
            {"live": live, "shadow": shadow, "value": value}
            for (live, shadow), value in zip(columns, values, strict=True)
        ]
    }
