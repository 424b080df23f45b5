"""Checks of a `Shadow` that is made from the live column: what cannot be kept in step, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import FieldDoesNotExist
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models.expressions import BaseExpression, F, OuterRef, Subquery, Window
from django.db.models.functions import Cast

from migrations_playbook.expand.checks.fields import INCOMPARABLE
from migrations_playbook.expand.checks.values import CALL, GUESSABLE, LITERAL, say_unwritten
from migrations_playbook.meaning.expressions import (
    flatten,
    keeps_null,
    output_field,
    resolve,
    write_expression,
)
from migrations_playbook.postgres.names import base_type
from migrations_playbook.shadow import Shadow

Model = type[models.Model]

# Functions that make another value each time.
RESTLESS = GUESSABLE | {"gen_random_uuid", "gen_random_bytes", "uuidv4", "uuid_generate_v4"}
# Called without a parenthesis.
CLOCKS = re.compile(r"\b(?:current_(?:timestamp|date|time)|localtime(?:stamp)?)\b", re.IGNORECASE)
# Each type holds every value of those before it.
WIDER = ("smallint", "integer", "bigint", "numeric")
TEXTS = ("varchar", "text", "citext")


def check_conversion(model: Model, shadow: Shadow) -> Iterator[CheckMessage]:
    """Yield the first fault of each way: other faults may follow from this fault alone."""
    if shadow.value is not None:
        yield _error(
            model,
            40,
            "Shadow(value=..., up=...) says two things: a value is drawn, and never looks back; up "
            "makes the shadow from the live column, and keeps both in step.",
            "Take one of them away.",
        )
        return
    if shadow.moves and shadow.down is None:
        yield _error(
            model,
            47,
            "Shadow(moves=True) has no down=...: a release that knows the new name alone would not "
            "be followed.",
            f'Write down=F("{shadow.shadow}"), say.',
        )
    ends = {"live": shadow.live, "shadow": shadow.shadow}
    try:
        fields: dict[str, Any] = {role: model._meta.get_field(name) for role, name in ends.items()}
    except FieldDoesNotExist:
        return  # `check_fields` says so
    if shadow.moves and fields["live"].null:
        yield _error(
            model,
            47,
            f"Shadow(moves=True): {shadow.live} may be null, and what a null in {shadow.shadow} "
            "means could not be told: a row that is to be filled, or one that was emptied.",
            "Give the column a value that means empty first.",
        )
    for way, source, target in (("up", "live", "shadow"), ("down", "shadow", "live")):
        expression = getattr(shadow, way)
        if way == "down" and expression is None:
            continue
        problem = next(_problems(model, expression, fields[source], fields[target]), None)
        if problem is not None:
            number, message, hint = problem
            yield _error(model, number, f"Shadow({way}=...) {message}", hint)


def warn_of_prepared(
    model: Model, shadow: Shadow, databases: Mapping[str, Mapping[str, Any]]
) -> Iterator[CheckMessage]:
    """Yield a warning for each database whose statements would outlive a change of type.

    psycopg deallocates a statement when a transaction is rolled back, and not when the statement
    fails: where every statement is committed by itself, it fails for as long as the session lives.

    Arguments:
        databases: the OPTIONS of each PostgreSQL database of the model, by its alias.
    """
    live, made = (model._meta.get_field(name) for name in (shadow.live, shadow.shadow))
    connection = connections[DEFAULT_DB_ALIAS]
    types = {
        (each.db_type(connection), getattr(each, "db_collation", None)) for each in (live, made)
    }
    if not shadow.converts or shadow.moves or len(types) == 1:
        return
    for alias, options in databases.items():
        # Django's own cursor binds in the client, and such a cursor prepares nothing.
        binds = options.get("server_side_binding") is True
        if binds and options.get("prepare_threshold") is not None:
            yield checks.Warning(
                f"{model._meta.label}.{shadow.live} is to get another type, and the sessions of "
                f'the database "{alias}" prepare statements on the server: after the swap each '
                'that reads the column fails ("cached plan must not change result type"), until '
                "its session ends or rolls a transaction back.",
                hint=f"Take prepare_threshold out of the OPTIONS of {alias} before the swap, and "
                "put it back when no process of before is left.",
                obj=model,
                id="playbook.W048",
            )


def _problems(
    model: Model, expression: Any, source: Any, target: Any
) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the check, the rest of its sentence, and its hint; the first counts."""
    write = f'Write F("{source.name}"), say, or another expression of {source.name}.'
    if not isinstance(expression, BaseExpression | F):
        says = "is not an expression that PostgreSQL could evaluate: what Python makes cannot be "
        yield 41, f"{says}kept in step by the database.", write
        return
    parts = list(flatten(expression))
    if any(isinstance(each, Subquery | Window | OuterRef | models.Aggregate) for each in parts):
        says = (
            "looks at other rows (a subquery, an aggregate, a window): no trigger would fire when"
        )
        yield 42, f"{says} they change.", write
        return
    names = {str(getattr(each, "name", "")) for each in parts if isinstance(each, F)}
    if names != {source.name}:
        others = ", ".join(sorted(names - {source.name})) or "no column"
        yield 43, f"must be made of {source.name} alone, and refers to {others}.", write
        return
    try:
        text = write_expression(model, expression)
    except Exception as error:  # an expression of anybody's, whose as_sql() may raise anything
        yield 41, say_unwritten(error), write
        return
    if "$$" in text or "\n" in text:
        yield 41, "has $$ or a line break in it, which would end a part of the trigger.", write
    restless = find_restless(text)
    if restless:
        named = ", ".join(sorted(restless))
        yield 44, f"calls {named}, which makes another value each time.", write
    for field in (source, target):
        kind = base_type(field, connections[DEFAULT_DB_ALIAS])
        if kind in INCOMPARABLE:
            says = (
                f"concerns {field.name}, a {kind}: the type has no equality, so nobody could tell"
            )
            yield 45, f"{says} whether it has changed.", "Convert it to jsonb or text first."
    if not keeps_null(expression) and _may_fail(model, expression, target):
        says = "may make null of a value, or a value of null, and may fail: whether a row is "
        yield 46, f"{says}converted could not be told.", "Let it do one of the two."


def find_restless(text: str) -> set[str]:
    """Find what an expression's SQL calls that makes another value each time."""
    plain = LITERAL.sub("''", text)
    called = {name.lower() for name in CALL.findall(plain)} & RESTLESS
    return called | {name.lower() for name in CLOCKS.findall(plain)}


def _may_fail(model: Model, expression: Any, target: Any) -> bool:
    """Tell whether an expression may raise for a value, as far as Django knows the types."""
    connection = connections[DEFAULT_DB_ALIAS]
    made = output_field(resolve(model, expression))
    kinds = base_type(made, connection) if made is not None else "", base_type(target, connection)
    casts = [each for each in flatten(expression) if isinstance(each, Cast)]
    return any(base_type(each.output_field, connection) not in TEXTS for each in casts) or not (
        kinds[0] == kinds[1]
        or all(kind in TEXTS for kind in kinds)
        or (all(kind in WIDER for kind in kinds) and WIDER.index(kinds[0]) < WIDER.index(kinds[1]))
    )


def _error(model: Model, number: int, message: str, hint: str) -> Error:
    return Error(message, hint=hint, obj=model, id=f"playbook.E{number:03}")
