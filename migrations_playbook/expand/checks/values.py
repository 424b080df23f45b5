"""Checks of the value that a `Shadow` draws; each hint is a value to write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from django.core.checks import CheckMessage, Error
from django.core.exceptions import FieldDoesNotExist
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models.expressions import BaseExpression, F

from migrations_playbook import values
from migrations_playbook.meaning.expressions import TEXTS
from migrations_playbook.postgres.names import base_type
from migrations_playbook.shadow import Shadow
from migrations_playbook.values import RandomHexUUID, RandomText, Sha256

Model = type[models.Model]
Field: TypeAlias = "models.Field[Any, Any]"

NUMBERS = {"smallint", "integer", "bigint", "numeric", "double precision", "real"}
# The digits that every value of a type has room for.
DIGITS_OF = {"smallint": 4, "integer": 9, "bigint": 18}
UUID_WIDTH, HEX_WIDTH, SHA256_WIDTH = 36, 32, 64

# Functions that give every row the same value, or a value that a stranger can guess: a generator
# whose state its outputs give away, the clock, a counter, and UUIDs of the last two.
GUESSABLE = {
    "random", "random_normal", "now", "clock_timestamp", "statement_timestamp",
    "transaction_timestamp", "timeofday", "nextval", "currval", "lastval", "txid_current",
    "pg_current_xact_id", "pg_backend_pid", "uuidv7", "uuid_generate_v1", "uuid_generate_v1mc",
    "uuid_generate_v3", "uuid_generate_v5",
}  # fmt: skip
# Functions, and words with a parenthesis behind them, that add nothing to their arguments.
NOTHING_ADDED = {
    "abs", "and", "array", "as", "ascii", "bit", "btrim", "bytea", "case", "cast", "ceil",
    "ceiling", "char", "chr", "coalesce", "concat", "concat_ws", "convert_to", "date_part",
    "date_trunc", "decimal", "decode", "else", "encode", "extract", "floor", "format", "greatest",
    "hashtext", "in", "initcap", "interval", "least", "left", "length", "lower", "lpad", "ltrim",
    "md5", "mod", "not", "nullif", "numeric", "operator", "or", "overlay", "power", "repeat",
    "replace", "reverse", "right", "round", "rpad", "rtrim", "set_byte", "sha224", "sha256",
    "sha384", "sha512", "sign", "split_part", "sqrt", "strpos", "substr", "substring", "then",
    "time", "timestamp", "to_char", "to_hex", "translate", "trim", "trunc", "upper", "varchar",
    "when",
}  # fmt: skip
LITERAL = re.compile(r"'(?:[^']|'')*'")
CALL = re.compile(r'(?:"?\w+"?\.)*"?(\w+)"?\s*\(')


def check_value(model: Model, shadow: Shadow) -> Iterator[CheckMessage]:
    """Yield the value's first fault: other faults may follow from this fault alone."""
    problem = next(_problems(model, shadow), None)
    if problem is not None:
        number, message, hint = problem
        yield Error(
            f"Shadow(value=...) {message}", hint=hint, obj=model, id=f"playbook.E{number:03}"
        )


def _make_instance(value: object) -> BaseExpression | None:
    """Make an expression of a class that somebody forgot to call; None where that takes more."""
    if not isinstance(value, type) or not issubclass(value, BaseExpression):
        return None
    try:
        return value()
    except TypeError:
        return None


def _problems(model: Model, shadow: Shadow) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the check, the rest of its sentence, and its hint; the first counts."""
    value: Any = shadow.value
    live = _field_of(model, shadow.live)
    propose = f"Write value={propose_value(live, value)}"
    if value is None:
        says = "is missing, and so is up=...: the one draws new values, the other converts."
        yield 10, says, f"{propose}, or up= and down=."
        return
    if not isinstance(value, BaseExpression):
        made = _make_instance(value)
        if made is not None and not any(_problems(model, replace(shadow, value=made))):
            propose = f"Write value={value.__name__}()"
        says = "is not an expression that PostgreSQL could evaluate for each row."
        yield 10, says, f"{propose}, or another database function."
        return
    if any(isinstance(each, F) for each in _flattened(value)):
        says = "refers to a column: it must make a value, not convert one."
        yield 11, says, f"{propose}, or another expression without F()."
        return
    other = f"Write value={propose_value(live, None)}."
    try:
        text = shadow.value_sql(model)
    except Exception as error:  # an expression of anybody's, whose as_sql() may raise anything
        yield 14, say_unwritten(error), other
        return
    if "$$" in text:
        yield 14, "has $$ in it, which would end a trigger's function.", other
    yield from _no_secret(LITERAL.sub("''", text), propose)
    misfit = None if live is None else find_misfit(live, value, shadow.value_field)
    if misfit is not None:
        yield 15, misfit, f"Write value={propose_value(live, value)}."


def say_unwritten(error: Exception) -> str:
    """Say that a value has no SQL, with the first line of its expression's error."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"cannot be written as SQL: {first}."


def _no_secret(text: str, propose: str) -> Iterator[tuple[int, str, str]]:
    """Say why an expression's values are known to others, or to other rows.

    Arguments:
        text: its SQL, without literals.
        propose: the beginning of a hint.
    """
    if re.search(r"\bselect\b", text, re.IGNORECASE):
        says = "has a subquery, which PostgreSQL evaluates once for all rows of a statement."
        yield 16, says, f"{propose}, or put the subquery into a function."
    called = {name.lower() for name in CALL.findall(text)}
    guessable = ", ".join(f"{name}()" for name in sorted(called & GUESSABLE))
    if not called <= GUESSABLE | NOTHING_ADDED:
        return
    if guessable:
        yield 16, f"is made of {guessable} alone, which is no source of secrets.", f"{propose}."
    else:
        yield 16, "gives every row the same value, which is no secret.", f"{propose}."


def find_misfit(live: Field, value: Any, made: Field | None) -> str | None:
    """Say why a value does not go into the column, as far as Django knows the types.

    Arguments:
        live: the live field.
        value: the value expression.
        made: the field of the expression's type; None where Django cannot tell.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    kind = base_type(live, connection)
    width = None if made is None else _width(value, base_type(made, connection))
    room = live.max_length if kind in TEXTS else DIGITS_OF.get(kind)
    if kind in TEXTS or isinstance(value, RandomText):
        if isinstance(value, RandomText) and not _may_be(value, kind):
            return f"makes texts that are no {kind}, the type of {live.name}."
        if width is not None and room is not None and width > room:
            what = f"max_length={room}" if kind in TEXTS else f"{room} digits of {kind}"
            return f"makes {width} characters, and {live.name} has {what}."
    elif made is not None:
        source = base_type(made, connection)
        if source not in TEXTS and source != kind and not {source, kind} <= NUMBERS:
            return f"makes a {source}, and {live.name} is a {kind}."
    return None


def _may_be(value: RandomText, kind: str) -> bool:
    """Tell whether drawn texts can be values of a type."""
    number = not value.prefix and set(value.alphabet) <= set(values.DIGITS)
    return kind in TEXTS or kind == "bytea" or (number and kind in NUMBERS)


def _width(value: Any, kind: str) -> int | None:
    """Count a value's characters, where known for certain."""
    if isinstance(value, RandomText | RandomHexUUID):
        return value.output_field.max_length
    if isinstance(value, Sha256):
        return None if value.prefix else SHA256_WIDTH
    return UUID_WIDTH if kind == "uuid" else None


def propose_value(live: Field | None, value: object) -> str:
    """Spell a value that fits a column, as near as possible to the intended value."""
    kind = "" if live is None else base_type(live, connections[DEFAULT_DB_ALIAS])
    digits = DIGITS_OF.get(kind) or getattr(live, "max_digits", None)
    if digits is not None:
        return f"RandomText({digits}, DIGITS)"
    if live is None or kind not in TEXTS | {"bytea"}:
        return "RandomUUID()"
    room = live.max_length or HEX_WIDTH
    if isinstance(value, RandomText):
        return spell_text(value, min(room, HEX_WIDTH) - len(str(value.prefix)))
    return f"RandomText({room})" if room < HEX_WIDTH else "RandomHexUUID()"


def spell_text(value: RandomText, length: int) -> str:
    """Spell a `RandomText` of another length."""
    names = {"HEX": values.HEX, "DIGITS": values.DIGITS, "UNAMBIGUOUS": values.UNAMBIGUOUS}
    alphabet = next((name for name, each in names.items() if each == value.alphabet), None)
    if alphabet is None and value.alphabet != values.URL_SAFE:
        alphabet = repr(value.alphabet)
    prefix = f"prefix={value.prefix!r}" if value.prefix and length > 0 else None
    parts = (str(max(length, 1)), alphabet, prefix)
    return f"RandomText({', '.join(part for part in parts if part)})"


def _field_of(model: Model, name: str) -> Field | None:
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, models.Field) else None


def _flattened(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, BaseExpression):
        for each in value.get_source_expressions():
            yield from _flattened(each)
