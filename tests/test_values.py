"""Values that PostgreSQL makes: what they look like, how even draws are, one draw a row."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.db import connection, models
from django.db.migrations.writer import MigrationWriter

from migrations_playbook import (
    DIGITS,
    HEX,
    UNAMBIGUOUS,
    URL_SAFE,
    AtTimeZone,
    RandomHexUUID,
    RandomText,
    Sha256,
    Shadow,
)
from migrations_playbook.values import count_symbols
from tests.fixtures.database import Database
from tests.fixtures.models_zoo import Characters, Numbers, expand, fill
from tickets.models import Ticket

# An alphabet of a size that nothing is a power of, with what SQL and the driver might stumble over.
AWKWARD = "'\"%\\{};$é中0aZ"
ALPHABETS = {
    "url-safe": URL_SAFE,
    "hex": HEX,
    "digits": DIGITS,
    "unambiguous": UNAMBIGUOUS,
    "letters": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "33": URL_SAFE[:33],
    "coin": "01",
    "awkward": AWKWARD,
}
DRAWS = 4000


def drawn(database: Database, value: Any, rows: int = DRAWS) -> list[str]:
    """As many draws, by one statement."""
    text = Shadow(live="token", shadow="new_token", value=value).value_sql(Ticket)
    with database.connect() as session:
        # Bytes: what is drawn may have any character in it, and is no template.
        query = f"SELECT {text} FROM generate_series(1, {rows})".encode()  # noqa: S608
        return [row[0] for row in session.execute(query).fetchall()]


def assert_even(counts: Counter[str], symbols: str) -> None:
    """Chi-square, with a bound of ten standard deviations that chance does not reach."""
    assert set(counts) <= set(symbols)
    expected = counts.total() / len(symbols)
    freedom = len(symbols) - 1
    square = sum((counts[each] - expected) ** 2 / expected for each in symbols)
    assert square < freedom + 10 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_every_character_of_an_alphabet_is_as_likely_as_any_other(
    alphabet: str, database: Database
) -> None:
    texts = drawn(database, RandomText(16, alphabet))
    assert {len(text) for text in texts} == {16}
    assert_even(Counter("".join(texts)), alphabet)
    for place in range(16):
        assert_even(Counter(text[place] for text in texts), alphabet)


@pytest.mark.parametrize("length", [1, 17, 18, 19, 28, 29, 43, 255])
def test_a_text_has_the_length_that_is_asked_for(length: int, database: Database) -> None:
    for alphabet in (URL_SAFE, HEX, DIGITS, UNAMBIGUOUS):
        assert {len(text) for text in drawn(database, RandomText(length, alphabet), 50)} == {length}


def test_neighbouring_characters_do_not_depend_on_each_other(database: Database) -> None:
    """Also across the seam of two UUIDs, and where the fixed bits of one would be."""
    texts = drawn(database, RandomText(60, "0123"))
    for place in range(59):
        assert_even(
            Counter(chr(int(text[place : place + 2], 4)) for text in texts),
            "".join(map(chr, range(6))) + "".join(chr(each) for each in range(6, 16)),
        )


def test_a_prefix_stands_in_front_and_may_be_any_text(database: Database) -> None:
    for prefix in ("sk_live_", "50%_", "it's ", "\\{x}"):
        texts = drawn(database, RandomText(24, prefix=prefix), 20)
        assert all(text.startswith(prefix) and len(text) == len(prefix) + 24 for text in texts)
        assert len(set(texts)) == 20


def test_a_hex_uuid_is_one_that_python_would_make(database: Database) -> None:
    texts = drawn(database, RandomHexUUID(), 100)
    assert all(len(text) == 32 and set(text) <= set(HEX) for text in texts)
    assert {text[12] for text in texts} == {"4"}
    assert {text[16] for text in texts} <= set("89ab")


VALUES = {
    "text": RandomText(16),
    "prefix": RandomText(16, DIGITS, prefix="sk_"),
    "hex uuid": RandomHexUUID(),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_one_update_gives_each_row_another_value(value: Any, database: Database) -> None:
    text = Shadow(live="token", shadow="new_token", value=value).value_sql(Ticket)
    with database.connect() as session:
        session.execute(
            "CREATE TEMP TABLE t AS SELECT n, ''::text AS v FROM generate_series(1, 500) n"
        )
        session.execute(f"UPDATE t SET v = {text}".encode())  # noqa: S608
        assert session.execute("SELECT count(DISTINCT v) FROM t").fetchone() == (500,)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_the_triggers_and_the_backfill_draw_one_a_row(value: Any, database: Database) -> None:
    replacement = expand(Characters, Shadow(live="token", shadow="new_token", value=value))
    Characters._default_manager.bulk_create([Characters() for _ in range(20)])
    fill(replacement)
    assert Characters._default_manager.values("new_token").distinct().count() == 23
    width = value.output_field.max_length
    assert widths(Characters) == {width}


def widths(model: type[models.Model]) -> set[int]:
    """The lengths of the fresh values."""
    return {len(text) for text in model._default_manager.values_list("new_token", flat=True)}


def test_digits_fill_a_column_of_numbers(database: Database) -> None:
    value = RandomText(18, DIGITS)
    replacement = expand(Numbers, Shadow(live="token", shadow="new_token", value=value))
    Numbers._default_manager.create()
    fill(replacement)
    assert Numbers._default_manager.filter(new_token__lt=10**18).count() == 4


def test_a_uuid_fills_a_column_of_texts(database: Database) -> None:
    shadow = Shadow(live="token", shadow="new_token", value=RandomUUID())
    replacement = expand(Characters, shadow)
    Characters._default_manager.create()
    fill(replacement)
    assert widths(Characters) == {36}


def test_a_function_that_stands_earlier_in_the_path_is_not_asked(database: Database) -> None:
    database.run("CREATE SCHEMA evil")
    for function in ("gen_random_uuid() RETURNS uuid", "left(text, integer) RETURNS text"):
        database.run(
            f"CREATE FUNCTION evil.{function} LANGUAGE sql AS 'SELECT NULL'".replace(
                "'SELECT NULL'", "'SELECT NULL::uuid'" if "uuid" in function else "'SELECT ''bad'''"
            )
        )
    text = Shadow(live="token", shadow="new_token", value=RandomText(16)).value_sql(Ticket)
    with database.connect() as session:
        session.execute("SET search_path = evil, pg_catalog")
        (value,) = session.execute(f"SELECT {text}".encode()).fetchone() or ("",)
    assert len(value) == 16


def test_a_digest_is_the_one_that_python_makes(database: Database) -> None:
    ticket = Ticket.objects.create()
    for text in ("open sesame", "", "Ä%s 'quoted' {} \\x"):
        digest = hashlib.sha256(text.encode()).hexdigest()
        made = Ticket.objects.annotate(
            plain=Sha256(models.Value(text)),
            prefixed=Sha256(models.Value(text), prefix="50%$"),
            again=Sha256(Sha256(models.Value(text), prefix="50%$"), prefix="50%$"),
        ).get(pk=ticket.pk)
        assert (made.plain, made.prefixed, made.again) == (digest, *["50%$" + digest] * 2)
    nothing = models.Value(None, output_field=models.TextField())
    assert Ticket.objects.filter(pk=ticket.pk).values_list(
        Sha256(nothing), Sha256(nothing, prefix="a")
    ).get() == (None, None)


def test_they_are_expressions_like_djangos_own(database: Database) -> None:
    with connection.schema_editor() as editor:
        field = models.CharField(max_length=24, db_default=RandomText(16, prefix="50%_"))
        field.set_attributes_from_name("code")
        field.model = Ticket
        editor.add_field(Ticket, field)
    Ticket.objects.create()
    assert database.value(
        "SELECT code LIKE '50^%^________________%' ESCAPE '^' FROM tickets_ticket"
    )
    values = Ticket.objects.annotate(drawn=RandomText(8, HEX)).values_list("drawn", flat=True)
    assert [len(value) for value in values] == [8]
    assert RandomText(8) == RandomText(8)
    assert RandomText(8) != RandomText(9)


def test_a_migration_writes_them_down_by_an_address_that_stays() -> None:
    text, imports = MigrationWriter.serialize(RandomText(16, HEX, prefix="sk_"))
    assert text == "migrations_playbook.values.RandomText(16, '0123456789abcdef', prefix='sk_')"
    assert imports == {"import migrations_playbook.values"}
    for value, written in (
        (Sha256("token", prefix="a"), "Sha256('token', prefix='a')"),
        (AtTimeZone("created", "UTC"), "AtTimeZone('created', 'UTC')"),
    ):
        assert MigrationWriter.serialize(value)[0] == f"migrations_playbook.values.{written}"
    assert MigrationWriter.serialize(RandomHexUUID())[0] == (
        "migrations_playbook.values.RandomHexUUID()"
    )


def test_they_say_how_many_bits_a_guesser_lacks() -> None:
    assert RandomText(16).entropy_bits == 96
    assert RandomText(32, HEX, prefix="sk_live_").entropy_bits == 128
    assert RandomText(6, DIGITS).entropy_bits == pytest.approx(19.93, abs=0.01)
    assert RandomHexUUID().entropy_bits == 122


@pytest.mark.parametrize("kept", [60 / 64, 10 / 16, 33 / 64])
@pytest.mark.parametrize("length", [1, 6, 16, 64])
def test_a_text_lacks_a_character_once_in_2_to_the_64(length: int, kept: float) -> None:
    """The exact chance, beside the bound that the number of draws is taken from."""
    draws = count_symbols(length, kept)
    chance = sum(
        math.comb(draws, few) * kept**few * (1 - kept) ** (draws - few) for few in range(length)
    )
    assert 0 < chance <= 2**-64
