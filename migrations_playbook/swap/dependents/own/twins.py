"""The swap's treatment of indexes and unique constraints.

A twin on the shadow column is built concurrently before the exchange; in the exchange the two
change names. A revert drops the twin.

On a partitioned table nothing can be built concurrently, and no constraint be made of an index. So
the twins are built as pg_dump builds indexes: the table gets an index, invalid until every
partition has a part; each part is built concurrently, and then attached. The preparation does all
this; in the exchange the parts change names, each in its partition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from psycopg import sql

from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Key,
    Steps,
    Unique,
    describe_columns,
    with_options,
)
from migrations_playbook.swap.dependents.definitions.indexes import (
    Family,
    Index,
    Name,
    Part,
    needed_names,
    read_taken_names,
)
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.dependents.definitions.restate import Definitions
from migrations_playbook.swap.dependents.own.twin_names import (
    cluster_on,
    deferrable_clause,
    drop_twin,
    drop_twins,
    exchange_left_names,
    exchange_names,
    exchange_part_names,
    make_constraint,
    return_names,
)
from migrations_playbook.swap.pair import Pair

FOR_LIKE = "for LIKE, which the other type has not"
# The operator classes of LIKE without a collation: of text types alone.
PATTERNS = re.compile(r" (?:text|varchar|bpchar)_pattern_ops\b")


def read_twins(reading: Reading) -> Iterator[Dependent]:
    """Yield the indexes and unique constraints on either column."""
    pair, restated = reading.pair, reading.definitions
    seen: set[int] = set()
    taken = read_taken_names(reading.connection, reading.families)
    for family in reading.families:
        index = family[0].index
        parts = (one for part in family for one in (part.index, part.twin) if one)
        each = _describe(pair, index, parts)
        seen |= {oid for name, oid in each.covers if name == "pg_class"}
        if _is_for_like(index) and restated.failures.get(index.oid):
            yield replace(each, how=f"{each.how}; {FOR_LIKE}")
            continue
        why = next(filter(None, (_refusal(part, restated, taken) for part in family)), None)
        if why is not None:
            yield replace(each, refused=why)
            continue
        yield replace(
            each,
            rest=tuple(exchange_left_names(family)) if pair.swapped else (),
            steps=_carry_over(family, restated),
            unique_on=_unique_on(family[0], restated),
            whole_key=_whole_key(family[0]),
        )
    names = {index.oid for index in reading.indexes}
    for index in reading.indexes:
        if index.oid not in seen and index.parent not in names:
            yield _describe(pair, index, [index, *_below(index, reading.indexes)])


def _describe(pair: Pair, index: Index, covered: Iterable[Index]) -> Dependent:
    """Describe an index, which stands for all of these; its treatment is said afterwards."""
    return Dependent(
        index.kind,
        index.name,
        describe_columns(pair, index.on),
        frozenset(index.on),
        covers=frozenset(object_ for each in covered for object_ in each.covers),
    )


def _carry_over(family: Family, restated: Definitions) -> Steps:
    """Build the steps by which an index and its twin change places."""
    reverting = family[0].pair.swapped
    return Steps(
        build=tuple(_build(family, restated)),
        # No build: the quarantine's repair builds, and reverts nothing.
        prove=tuple(return_names(family)) if reverting else (),
        after_rename=(
            *exchange_names(family[0]),
            *(step for part in family[1:] for step in cluster_on(part, part.twin_name)),
        ),
        follow_up=() if reverting else tuple(map(exchange_part_names, family[1:])),
        last=tuple(drop_twins(family)) if reverting else (),
    )


def _is_for_like(index: Index) -> bool:
    """Tell whether an index serves LIKE alone, as Django's `_like` does."""
    return not index.unique and PATTERNS.search(index.definition) is not None


def _below(index: Index, found: list[Index]) -> Iterator[Index]:
    for each in found:
        if each.parent == index.oid:
            yield each
            yield from _below(each, found)


def _refusal(part: Part, restated: Definitions, taken: Mapping[Name, str]) -> str | None:
    index = part.index
    for name in needed_names(part) if part.twin is None else ():
        if (shown := taken.get((part.pair.table.schema, name))) is not None:
            return f"its twin needs the name {name}, which {shown} has; rename that"
    if index.primary:
        return "the column is of the primary key, which other tables and the application go by"
    if index.exclusion:
        return (
            "an exclusion constraint cannot be built without blocking writes; drop it, and add "
            "it again after the swap"
        )
    if not index.valid:
        return (
            "it is invalid: not every partition has its part of it; build and attach that"
            if part.pair.partitioned
            else "it is invalid: left by a build that failed (REINDEX INDEX CONCURRENTLY it, or "
            "drop it), or by one that is under way (wait for it)"
        )
    failures = [restated.failures.get(oid) for oid in (index.oid, index.constraint) if oid]
    if not any(failures) and _definition(part, restated) is None:
        return "its tablespace cannot be restated with its predicate"
    return next(filter(None, failures), None)


def _alike(part: Part, restated: Definitions) -> bool:
    """Tell whether a twin is as it should be; on a partitioned table parts may still be missing."""
    index, twin = part.index, part.twin
    return (
        twin is not None
        and (
            twin.definition == restated.indexes[index.oid]
            # The other way round: an original that a revert returns to.
            or restated.indexes.get(twin.oid) == index.definition
        )
        and (twin.valid or part.pair.partitioned)
        and (
            twin.constraint is None
            or (twin.deferrable, twin.deferred) == (index.deferrable, index.deferred)
        )
    )


def _build(family: Family, restated: Definitions) -> Iterator[Step]:
    """Build the missing twins before the exchange.

    Lock: SHARE UPDATE EXCLUSIVE for concurrent builds; ACCESS EXCLUSIVE, boundedly and for the
    moment of a catalog change, on a partitioned table for its empty index (which takes SHARE
    itself, and so would keep writes waiting), and on a partition for its constraint and for
    attaching the part (on which PostgreSQL takes ACCESS EXCLUSIVE, and planners look at the part).
    """
    whole = [part.twin for part in family if part.twin and _belongs(part)]
    if whole and not all(_alike(part, restated) for part in family if part.twin in whole):
        # An attached index goes with the table's own, and only so.
        yield drop_twin(family[0], "Drop {}, which is not like its original", family=family)
        family = _without_twins(family)
    missing = [part for part in family if not _alike(part, restated)]
    for part in missing:
        if part.pair.partitioned:
            yield from _make_partitioned(part, restated)
        else:
            yield from _make(part, restated)
    if len(family) == 1:
        return
    for part in family:
        made = None if part in missing else part.twin
        if part.index.constraint and not part.pair.partitioned and not (made and made.constraint):
            yield make_constraint(part, part.twin_name, part.twin_name)
    # The lowest level first: only a whole part makes the part above whole.
    for part in reversed(family):
        made = None if part in missing else part.twin
        if part.above is not None and not (made and made.parent):
            yield _attach(part, part.above)


def _belongs(part: Part) -> bool:
    """Tell whether a part's twin belongs to the twins of the table and the partitions."""
    return part.pair.partitioned or (part.twin is not None and part.twin.parent is not None)


def _without_twins(family: Family) -> Family:
    """Build a family without the twins that belong together."""
    result: dict[int, Part] = {}
    for part in family:
        above = None if part.above is None else result[part.above.index.oid]
        twin = None if _belongs(part) else part.twin
        result[part.index.oid] = replace(part, twin=twin, above=above)
    return tuple(result.values())


def _make(part: Part, restated: Definitions) -> Iterator[Step]:
    """Build a twin concurrently, in the place of a bad twin."""
    twin = part.twin
    name = part.pair.twin_name(part.index.name)
    identifier = sql.Identifier(part.pair.table.schema, name)
    if twin is not None and twin.constraint is not None:
        yield drop_twin(part, "Drop the constraint {}, which is not like its original")
    elif twin is not None:
        why = "is not like its original" if twin.valid else "was left invalid by a failed build"
        yield Step(
            f"Drop the index {name}, which {why}",
            sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(identifier),
            Lock.SHARE_UPDATE_EXCLUSIVE,
            part.pair.identifier,
            concurrent=True,
        )
    yield Step(
        f"Build the index {name}",
        sql.SQL("CREATE {}INDEX CONCURRENTLY {} ON {} {}").format(
            _unique(part), sql.Identifier(name), part.pair.identifier, _definition(part, restated)
        ),
        Lock.SHARE_UPDATE_EXCLUSIVE,
        part.pair.identifier,
        concurrent=True,
    )
    yield from _targets(part)


def _make_partitioned(part: Part, restated: Definitions) -> Iterator[Step]:
    """Make a partitioned table's twin, which is empty, and invalid until its parts are attached."""
    name = part.pair.twin_name(part.index.name)
    if part.index.constraint is not None:
        definition = restated.constraints[part.index.constraint]
        deferrable = deferrable_clause(part.index).as_string(None)
        yield part.pair.alter_only(
            f"Add the constraint {name}, without the partitions",
            sql.SQL("ADD CONSTRAINT {} {}{}{}{}").format(
                sql.Identifier(name),
                sql.SQL(definition.removesuffix(deferrable)),
                with_options(part.index.options),
                _tablespace(part.index, "USING INDEX TABLESPACE"),
                sql.SQL(deferrable),
            ),
        )
    else:
        yield Step(
            f"Make the index {name}, without the partitions",
            sql.SQL("CREATE {}INDEX {} ON ONLY {} {}").format(
                _unique(part),
                sql.Identifier(name),
                part.pair.identifier,
                _definition(part, restated),
            ),
            Lock.SHARE,
            part.pair.identifier,
        )
    yield from _targets(part)


def _attach(part: Part, above: Part) -> Step:
    name, whole = part.twin_name, above.twin_name
    return Step(
        f"Let {name} be a part of {whole}",
        sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(
            sql.Identifier(above.pair.table.schema, whole),
            sql.Identifier(part.pair.table.schema, name),
        ),
        Lock.ACCESS_SHARE,
        part.pair.identifier,
        seized=True,
    )


def _unique(part: Part) -> sql.SQL:
    return sql.SQL("UNIQUE " if part.index.unique else "")


def _definition(part: Part, restated: Definitions) -> sql.Composed | None:
    """Build the text after the table in CREATE INDEX; None where the tablespace finds no place."""
    index = part.index
    definition, where = restated.indexes[index.oid], ""
    predicate = restated.predicates.get(index.oid)
    if index.tablespace is not None and predicate is not None:
        where = f" WHERE {predicate}"
        if not definition.endswith(where):
            return None
        definition = definition[: -len(where)]
    return sql.SQL("{}{}{}").format(
        sql.SQL(definition), _tablespace(index, "TABLESPACE"), sql.SQL(where)
    )


def _tablespace(index: Index, clause: str) -> sql.Composable:
    if index.tablespace is None:
        return sql.SQL("")
    return sql.SQL(" {} {}").format(sql.SQL(clause), sql.Identifier(index.tablespace))


def _targets(part: Part) -> Iterator[Step]:
    # Before the index has parts: an index hands its target on to its parts.
    name = part.pair.twin_name(part.index.name)
    for number, target in part.index.targets:
        yield Step(
            f"Give the index {name} its statistics target",
            sql.SQL("ALTER INDEX {} ALTER COLUMN {} SET STATISTICS {}").format(
                sql.Identifier(part.pair.table.schema, name),
                sql.Literal(number),
                sql.Literal(target),
            ),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _unique_on(part: Part, restated: Definitions) -> Unique | None:
    """Build the demand of a unique index's twin; None where the index is not unique."""
    if not part.index.unique:
        return None
    return Unique(
        part.pair.identifier,
        tuple(restated.keys.get(part.index.oid, ())),
        restated.predicates.get(part.index.oid),
    )


def _whole_key(part: Part) -> Key | None:
    """Find the columns of a whole unique key with a live column; None otherwise."""
    index, pair = part.index, part.pair
    columns = [column for column in index.columns if column is not None]
    if (
        not index.unique
        or index.predicate is not None
        or len(columns) != len(index.columns)
        or not pair.members_on(columns)
        or not pair.shadows.isdisjoint(columns)
    ):
        return None
    return Key(pair.identifier, tuple(columns))


KIND = DependentKind(
    read_twins,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'index', indexrelid, xmin) FROM pg_catalog.pg_index
         WHERE indrelid IN (SELECT oid FROM relation)"""),
)
