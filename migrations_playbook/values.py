"""Expressions for a `Shadow`: what draws a secret inside PostgreSQL, and what converts a value.

`Sha256` and `AtTimeZone` are for the ways of a conversion; `RandomText` and `RandomHexUUID` draw.

PostgreSQL itself has a single strong source without an extension: `gen_random_uuid()`, which asks
the operating system (pg_strong_random). `random()` is a generator with a state that its outputs
give away, and no source of secrets. So each of the two draws UUIDs and takes their random bits:

- a version 4 UUID has six fixed bits, in its 7th and 9th byte; these two bytes are left out, which
  leaves 112 bits that are all random;
- the bytes are written in 16 symbols (hex) or 64 (base64), each as likely as any other;
- the symbols are exchanged for the alphabet's characters, as many symbols for each of them, and the
  rest is thrown away: rejection instead of a remainder, so no character is likelier.

No expression has a subquery: PostgreSQL would evaluate a subquery once for a whole UPDATE, and
every row would get the same value. Volatile functions in the open are called for each row.

Every function is qualified, so no search_path puts another function in front. Migrations may name
these classes (`db_default=RandomText(16)`): the address and the arguments are FROZEN.
"""

from __future__ import annotations

import math
import string
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import CharField, DateTimeField, Func, TextField, Value
from django.db.models.sql.compiler import SQLCompiler

URL_SAFE = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
HEX = "0123456789abcdef"
DIGITS = string.digits
# Neither 0 nor O, neither 1 nor I: what a person reads aloud or types from paper.
UNAMBIGUOUS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"

BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"

# overlay() with nothing takes a byte away: the 9th first, which does not move the 7th.
RANDOM_BYTES = (
    "pg_catalog.overlay(pg_catalog.overlay("
    "pg_catalog.uuid_send(pg_catalog.gen_random_uuid()), "
    "''::pg_catalog.bytea, 9, 1), ''::pg_catalog.bytea, 7, 1)"
)
# 14 bytes are 28 symbols in hex. In base64 they are 18 of six bits each; the 19th has four, and the
# 20th is padding.
DRAWN_HEX = f"pg_catalog.encode({RANDOM_BYTES}, 'hex')"
DRAWN_BASE64 = f"pg_catalog.left(pg_catalog.encode({RANDOM_BYTES}, 'base64'), 18)"
HEX_SYMBOLS, BASE64_SYMBOLS = 28, 18

# A text that lacks a character, because too many symbols were thrown away: one in 2 ** 64.
SHORTFALL_BITS = 64


class RandomText(Func):
    """A text of random characters, another text for each row.

    Its entropy is `length * log2(len(alphabet))` bits, see `entropy_bits`: 96 for the default
    alphabet and 16 characters. From 64 bits nobody guesses a text that only a server can confirm.

    With an alphabet of 2, 4, 8, 16, 32 or 64 characters the text is always complete. With another
    length of alphabet the text lacks characters at its end with a chance of less than 2 ** -64.

    Arguments:
        length: characters to draw, from 1; the prefix comes on top.
        alphabet: 2 to 64 different characters, such as `URL_SAFE` (the default), `HEX`, `DIGITS`
            or `UNAMBIGUOUS`.
        prefix: the beginning of each text, `sk_live_` say.
    """

    def __init__(self, length: int, alphabet: str = URL_SAFE, *, prefix: str = "") -> None:
        self.length = length
        self.alphabet = alphabet
        self.prefix = prefix
        sized = isinstance(length, int) and isinstance(prefix, str)
        super().__init__(output_field=CharField(max_length=len(prefix) + length if sized else None))

    @property
    def entropy_bits(self) -> float:
        """The bits that a guesser lacks."""
        return self.length * math.log2(len(self.alphabet))

    def as_sql(  # type: ignore[override]  # nothing is left to vary
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any
    ) -> tuple[str, tuple[str, ...]]:
        """Write the draw as SQL.

        Raises:
            ValueError: the length, the alphabet or the prefix is unusable.
        """
        self._refuse_nonsense()
        text, parameters = self._drawn_text()
        if self.prefix:
            text, parameters = f"(%s OPERATOR(pg_catalog.||) {text})", (self.prefix, *parameters)
        return text, parameters

    def _drawn_text(self) -> tuple[str, tuple[str, ...]]:
        """Write the text without its prefix, and the parameters for its placeholders."""
        symbols, drawn, each = (
            (HEX, DRAWN_HEX, HEX_SYMBOLS)
            if len(self.alphabet) <= len(HEX)
            else (BASE64, DRAWN_BASE64, BASE64_SYMBOLS)
        )
        exchanged, characters = match_symbols(symbols, self.alphabet)
        kept = (len(symbols) - len(exchanged) + len(characters)) / len(symbols)
        draws = math.ceil(count_symbols(self.length, kept) / each)
        text = " OPERATOR(pg_catalog.||) ".join([drawn] * draws)
        cut = f"pg_catalog.left(%s, {self.length})"
        if not exchanged:
            return cut % text, ()
        exchange = "pg_catalog.translate(%s, %%s, %%s)"
        # Cut first where every symbol is good for a character: to exchange one costs most.
        text = exchange % (cut % text) if kept == 1 else cut % (exchange % text)
        return text, (exchanged, characters)

    def _refuse_nonsense(self) -> None:
        if type(self.length) is not int or self.length < 1:
            raise ValueError("its length must be a whole number from 1")
        if not isinstance(self.alphabet, str) or not 1 < len(self.alphabet) <= len(BASE64):
            raise ValueError("its alphabet must be a text of 2 to 64 characters")
        if len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError("its alphabet must have each character once")
        if not isinstance(self.prefix, str) or "\0" in self.prefix + self.alphabet:
            raise ValueError("its prefix and its alphabet must be texts without a NUL")


class RandomHexUUID(Func):
    """A version 4 UUID as 32 hex characters, like `uuid4().hex`.

    Its entropy is 122 bits: six of a version 4 UUID's 128 are fixed.
    """

    template = "pg_catalog.encode(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()), 'hex')"
    entropy_bits = 122.0

    def __init__(self) -> None:
        super().__init__(output_field=CharField(max_length=32))


class Sha256(Func):
    """The SHA-256 digest of a text, as 64 hex characters; null of null.

    Python's `prefix + hashlib.sha256(text.encode()).hexdigest()` is the same text. Needs no
    extension, unlike Django's own `SHA256`. With a prefix a text that begins with the prefix is
    taken for a digest, and stays: a release may write digests before all secrets are converted.

    Arguments:
        expression: the text, or the name of its field.
        prefix: the beginning of each digest, `sha256$` say.
    """

    arity = 1
    # See `meaning.expressions`.
    keeps_null = True

    def __init__(self, expression: Any, *, prefix: str = "") -> None:
        self.prefix = prefix
        super().__init__(expression, output_field=TextField())

    def as_sql(  # type: ignore[override]  # nothing is left to vary
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any
    ) -> tuple[str, tuple[Any, ...]]:
        """Write the digest as SQL."""
        (source,) = self.get_source_expressions()
        text, parameters = compiler.compile(source)
        digest = (
            "pg_catalog.encode(pg_catalog.sha256("
            f"pg_catalog.convert_to(({text})::pg_catalog.text, 'UTF8')), 'hex')"
        )
        if not self.prefix:
            return digest, tuple(parameters)
        made = f"%s OPERATOR(pg_catalog.||) {digest}"
        return (
            f"CASE WHEN pg_catalog.starts_with({text}, %s) THEN {text} ELSE {made} END",
            (*parameters, self.prefix, *parameters, self.prefix, *parameters),
        )


class AtTimeZone(Func):
    """A moment of a named time zone; null of null.

    Of a `timestamp`, which says no zone, the moment at which a clock there showed this; of a
    `timestamptz`, what a clock there shows.

    Arguments:
        expression: the moment, or the name of its field.
        zone: a name that PostgreSQL knows: `UTC`, `Europe/Berlin`. An abbreviation such as `CET`
            knows no summer.
    """

    arity = 2
    function = "pg_catalog.timezone"
    # See `meaning.expressions`.
    keeps_null = True

    def __init__(self, expression: Any, zone: str) -> None:
        super().__init__(Value(zone), expression, output_field=DateTimeField())


def match_symbols(symbols: str, alphabet: str) -> tuple[str, str]:
    """Say which symbols are exchanged for which characters, in the form for `translate()`.

    Each character gets as many symbols as any other. A symbol that is a character itself stays, and
    counts for itself. Symbols beyond the second text's end are thrown away.

    Arguments:
        symbols: the drawn symbols, each as likely as any other.
        alphabet: the characters wanted, no more than there are symbols.

    Returns:
        The symbols that do not stay, and the characters for the first of them.
    """
    rounds = len(symbols) // len(alphabet)
    characters = [
        character
        for turn in range(rounds)
        for character in alphabet
        if turn > 0 or character not in symbols
    ]
    exchanged = [symbol for symbol in symbols if symbol not in alphabet]
    return "".join(exchanged), "".join(characters)


def count_symbols(length: int, kept: float) -> int:
    """Count the symbols to draw, so that enough are kept but for a chance of 2 ** -64.

    By Chernoff's bound: the chance of keeping fewer than `length` of N symbols is at most exp(-N *
    D), where D is the relative entropy between the share `(length - 1) / N`, too few, and `kept`.

    Arguments:
        length: how many must be kept.
        kept: the share of kept symbols, up to 1.
    """
    if kept == 1:
        return length
    drawn = math.ceil(length / kept)
    while True:
        few = (length - 1) / drawn
        apart = (1 - few) * math.log((1 - few) / (1 - kept))
        if few > 0:
            apart += few * math.log(few / kept)
        if few < kept and drawn * apart >= SHORTFALL_BITS * math.log(2):
            return drawn
        drawn += 1
