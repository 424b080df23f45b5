"""Foreign keys from and to the column: neither can be carried over."""

from __future__ import annotations

from collections.abc import Iterator

from migrations_playbook.swap.dependents.base import Dependent, DependentKind, describe_columns
from migrations_playbook.swap.dependents.definitions.constraints import Constraint
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import Object


def read_foreign_keys(reading: Reading) -> Iterator[Dependent]:
    """Yield each foreign key with its copies on partitions."""
    foreign = {each.oid: each for each in reading.constraints if each.type == "f"}
    covers: dict[int, frozenset[Object]] = {}
    for key in foreign.values():
        whole = key
        while whole.parent in foreign:
            whole = foreign[whole.parent]
        covers[whole.oid] = covers.get(whole.oid, frozenset()) | key.covers
    for oid, covered in covers.items():
        key = foreign[oid]
        yield Dependent(
            "foreign key",
            f"{key.name} on {key.where}",
            describe_columns(reading.pair, key.on),
            frozenset(key.on),
            covered,
            refused=_refusal(key),
        )


def _refusal(each: Constraint) -> str:
    if each.incoming:
        return (
            "the rows that refer to the column hold leaked values, which a rename cannot change; "
            "let them refer to the primary key first"
        )
    return "fresh values refer to no row of the other table; drop the foreign key first"


# The stamp of the CHECKs covers all constraints.
KIND = DependentKind(read_foreign_keys)
