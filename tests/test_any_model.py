"""Models that are not like Ticket: odd names, odd keys, other schemas, other databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, ProgrammingError, connection, connections, models

from migrations_playbook.errors import VerificationFailed
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.play import verify
from tests.fixtures.database import Database
from tests.fixtures.models_zoo import (
    CODES,
    MODELS,
    TEXTS,
    UUIDS,
    Characters,
    MixedCase,
    Optional,
    Percent,
    Together,
    Twice,
    UuidKey,
    expand,
    fill,
    play,
    tokens,
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_model_of_any_shape_is_swapped_and_reverted(
    model: type[models.Model], database: Database
) -> None:
    replacement = expand(model, MODELS[model])
    leaked = tokens(model)
    fill(replacement)
    before = database.dump()
    assert play(replacement).passed
    assert read_state(connection, replacement).phase is Phase.SWAPPED
    fresh = tokens(model)
    assert len(fresh) == 3
    assert not fresh & leaked
    model._default_manager.create()
    assert play(replacement, revert=True).passed
    assert leaked < tokens(model)
    assert database.dump() == before


def test_a_percent_sign_is_djangos_problem_and_not_the_engines(database: Database) -> None:
    """Which check playbook.E012 says: Django cannot read such a table at all."""
    database.run(
        'CREATE TABLE "per%cent" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, '
        "\"to%ken\" uuid NOT NULL UNIQUE, note text DEFAULT '')"
    )
    database.run(
        'INSERT INTO "per%cent" ("to%ken") SELECT gen_random_uuid() FROM generate_series(1, 3)'
    )
    database.run('ALTER TABLE "per%cent" ADD COLUMN "new%stoken" uuid')
    for trigger in UUIDS.triggers:
        trigger.install(Percent)  # type: ignore[arg-type]
    with pytest.raises(ProgrammingError, match="are allowed as placeholders"):
        Percent._default_manager.count()
    replacement = Replacement(Percent, UUIDS)
    fill(replacement)
    before = database.dump()
    assert play(replacement).passed
    assert play(replacement, revert=True).passed
    assert database.dump() == before


def test_what_comes_to_a_retired_column_of_any_name_fails_the_proof(database: Database) -> None:
    replacement = expand(MixedCase, UUIDS)
    fill(replacement)
    play(replacement)
    database.run(
        'CREATE MATERIALIZED VIEW copies AS SELECT "New Secret Token" AS token FROM "Mixed Case"'
    )
    with pytest.raises(VerificationFailed, match=r"still bound to it: .* public\.copies"):
        list(verify(replacement, using="default"))


def test_a_row_without_a_token_has_none_before_the_swap_after_it_and_after_the_revert(
    database: Database,
) -> None:
    """Null means none, or revoked: a token that is revoked while swapped stays so."""
    replacement = expand(Optional, UUIDS)
    database.run("UPDATE zoo_optional SET token = NULL WHERE id = 1")
    fill(replacement)
    rows = Optional._default_manager
    assert list(rows.filter(new_token=None).values_list("pk", flat=True)) == [1]
    before = database.dump()
    assert play(replacement).passed
    assert rows.get(pk=1).token is None
    rows.filter(pk=2).update(token=None)
    rows.create(token=None)
    assert play(replacement, revert=True).passed
    assert set(rows.filter(token=None).values_list("pk", flat=True)) == {1, 2, 4}
    assert database.dump() == before


def test_two_shadows_of_one_table_are_swapped_one_without_the_other(database: Database) -> None:
    tokens_bound = expand(Twice, UUIDS)
    for trigger in CODES.triggers:
        trigger.install(Twice)  # type: ignore[arg-type]
    codes_bound = Replacement(Twice, CODES)
    fill(tokens_bound)
    fill(codes_bound)
    leaked = set(Twice._default_manager.values_list("token", "code"))
    before = database.dump()
    assert play(tokens_bound).passed
    assert read_state(connection, codes_bound).phase is Phase.FILLED
    assert play(codes_bound).passed
    Twice._default_manager.create()
    assert play(tokens_bound, revert=True).passed
    assert read_state(connection, codes_bound).phase is Phase.SWAPPED
    assert play(codes_bound, revert=True).passed
    assert leaked < set(Twice._default_manager.values_list("token", "code"))
    assert database.dump() == before


def test_the_index_for_like_goes_with_a_text_token(database: Database) -> None:
    replacement = expand(Characters, TEXTS)
    fill(replacement)
    play(replacement)
    definitions = database.value(
        "SELECT string_agg(indexdef, E'\\n') FROM pg_indexes WHERE tablename = 'zoo_characters'"
    )
    assert "_like ON public.zoo_characters USING btree (token varchar_pattern_ops)" in definitions


def test_a_token_that_is_unique_with_others_stays_so(database: Database) -> None:
    replacement = expand(Together, UUIDS)
    fill(replacement)
    play(replacement)
    row = Together._default_manager.get(tenant=1, pk=1)
    with pytest.raises(IntegrityError, match=r"zoo_(one_a_tenant|conditional)"):
        Together._default_manager.create(token=row.token, tenant=row.tenant)


@pytest.fixture
def second_database(database: Database) -> Iterator[Database]:
    """Another database under the alias "other", beside one that is not PostgreSQL."""
    for other in Database.temporary():
        # Which has pointed the default connection at itself.
        connections.databases["other"] = {**connections.databases["default"], "NAME": other.name}
        connections.databases["file"] = {
            **connections.databases["default"],
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": ":memory:",
        }
        connections["default"].close()
        connections["default"].settings_dict["NAME"] = database.name
        yield other
        for alias in ("other", "file"):
            connections[alias].close()
            del connections[alias]
            del connections.databases[alias]


def test_each_database_has_a_phase_of_its_own(second_database: Database) -> None:
    here, there = expand(UuidKey, UUIDS), expand(UuidKey, UUIDS, using="other")
    fill(here)
    fill(there, using="other")
    play(there, using="other")
    assert read_state(connections["default"], here).phase is Phase.FILLED
    assert read_state(connections["other"], there).phase is Phase.SWAPPED


def test_a_database_that_is_not_postgresql_is_refused(second_database: Database) -> None:
    with pytest.raises(CommandError, match='"file" is SQLite, and this playbook needs PostgreSQL'):
        call_command("swap_token_columns", database="file")
