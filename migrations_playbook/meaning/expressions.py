"""A declaration's expressions: written as SQL, read back from a trigger, and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeAlias

from django.core.exceptions import FieldError
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models import functions
from django.db.models.expressions import BaseExpression, Col, CombinedExpression, F
from django.db.models.sql import Query
from psycopg import sql

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.names import base_type, column_of

Model = type[models.Model]
Field: TypeAlias = "models.Field[Any, Any]"
# Stands for the column in the text of a compiled expression.
SOURCE = "@source@"
# Expressions that are null where their argument is, and nowhere else.
STRICT = (
    F, Col, models.Value, models.ExpressionWrapper, CombinedExpression, functions.Cast,
    functions.Lower, functions.Upper, functions.Trim, functions.LTrim, functions.RTrim,
    functions.Length, functions.Left, functions.Right, functions.Substr, functions.Replace,
    functions.MD5, functions.SHA224, functions.SHA256, functions.SHA384, functions.SHA512,
    functions.Abs, functions.Round, functions.Floor, functions.Ceil, functions.Trunc,
)  # fmt: skip

# What compares two texts by their bytes.
BYTEWISE = ' COLLATE pg_catalog."C"'
# Types that have collations.
TEXTS = {"varchar", "text", "char", "citext"}
# Types whose equality tells all values apart; a text's does, unless a collation is declared.
EXACT = {
    "smallint", "integer", "bigint", "boolean", "uuid", "bytea", "varchar", "text", "date", "time",
    "timestamp", "timestamp with time zone", "inet",
}  # fmt: skip


class Written(models.Expression):
    """A piece of SQL as it stands.

    Arguments:
        text: the SQL.
        like: a field of its type; None where nobody can tell.
    """

    def __init__(self, text: str, like: Field | None = None) -> None:
        super().__init__(output_field=like)
        self.text = text

    def as_sql(self, *args: Any, **options: Any) -> tuple[str, tuple[str | int, ...]]:
        """Return the SQL."""
        return self.text.replace("%", "%%"), ()


class CompiledExpression(Written):
    """An expression known by its SQL only, as a trigger has it.

    Arguments:
        text: the SQL, in which `SOURCE`, say, stands for a column.
        sources: the fields that the expression refers to, by what stands for each.
    """

    def __init__(self, text: str, sources: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.sources = sources or {}


class UnknownValue(CompiledExpression):
    """A value expression that nobody knows any more."""

    def as_sql(self, *args: Any, **options: Any) -> NoReturn:
        """Refuse to draw.

        Raises:
            Refused: always.
        """
        raise Refused(
            "Neither a model nor a migration nor a trigger says any more how a fresh value is "
            "drawn; nothing was changed. Declare the Shadow in the model again, then run the same "
            "command again."
        )


def compare_bytes(field: Field) -> str:
    """Write what compares two texts of a field's type by their bytes; "" for no type of texts.

    The collations of two columns would contradict each other, and one of them may call texts the
    same that are not.
    """
    return BYTEWISE if base_type(field, connections[DEFAULT_DB_ALIAS]) in TEXTS else ""


def is_exact(field: Field) -> bool:
    """Tell whether a field's values are the same wherever its type calls them equal."""
    kind = base_type(field, connections[DEFAULT_DB_ALIAS])
    return kind in EXACT and getattr(field, "db_collation", None) is None


def resolve(model: Model, expression: Any) -> Any:
    """Resolve an expression against a model's own columns.

    Raises:
        FieldError: the expression refers to no field of the model, or to another table's.
    """
    return expression.resolve_expression(Query(model), allow_joins=False)


def write_expression(
    model: Model, expression: Any, columns: Mapping[str, str] | None = None
) -> str:
    """Write an expression as SQL, its parameters as literals.

    Arguments:
        columns: the SQL to write for a field, by the field's name: `NEW."size"`, say.
    """
    if isinstance(expression, CompiledExpression) and expression.sources:
        text = expression.text
        for mark, field in expression.sources.items():
            own = sql.Identifier(column_of(model, field)).as_string(None)
            text = text.replace(mark, (columns or {}).get(field, own))
        return text
    query = Query(model)
    resolved = expression.resolve_expression(query, allow_joins=False)
    if columns is not None:
        resolved = resolved.replace_expressions(
            {
                each: Written(columns[each.target.name], each.target)
                for each in resolved.flatten()
                if isinstance(each, Col) and each.target.name in columns
            }
        )
    text, params = query.get_compiler(connection=connections[DEFAULT_DB_ALIAS]).compile(resolved)
    return str(text % tuple(sql.Literal(param).as_string(None) for param in params))


def write_cast(text: str, made: Field | None, target: Field) -> str:
    """Write an expression as a value of a column's type.

    The cast is to the type without its length: a cast to `varchar(32)` would cut a longer value and
    say nothing, where an assignment refuses the value.

    Arguments:
        made: the field of the expression's type; None where Django cannot tell.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    kind = base_type(target, connection)
    if made is not None and base_type(made, connection) == kind:
        return text
    return f"CAST({text} AS {kind})"


def compose_text(text: str) -> sql.SQL:
    """Compose SQL that is written already, for a statement with parameters of its own."""
    return sql.SQL(text.replace("%", "%%"))


def output_field(expression: Any) -> Field | None:
    """Resolve the field of an expression's type; None where Django cannot tell."""
    try:
        found: Field | None = getattr(expression, "output_field", None)
    except FieldError:
        return None
    return found


def flatten(expression: Any) -> Iterator[Any]:
    """Yield an expression and all its parts, resolved or not."""
    yield expression
    if isinstance(expression, BaseExpression):
        for each in expression.get_source_expressions():
            if each is not None:
                yield from flatten(each)


def read_references(expression: Any) -> set[str]:
    """Read the names of the fields that an expression refers to."""
    if isinstance(expression, CompiledExpression):
        return set(expression.sources.values())
    found: Iterator[Any] = (each for each in flatten(expression) if isinstance(each, F))
    return {str(each.name) for each in found}


def keeps_null(expression: Any) -> bool:
    """Tell whether an expression is null where its column is, and nowhere else, as far as known.

    An expression of somebody else's may say so itself, by `keeps_null = True`.
    """
    return all(
        isinstance(each, (*STRICT, CompiledExpression)) or getattr(each, "keeps_null", False)
        for each in flatten(expression)
    )
