"""The kinds of dependents, in the order in which the exchange carries them over.

To add a kind is a module beside this one, which ends with its `KIND`, and a row here. What no kind
claims of pg_depend is refused (`unknown`), so a kind that is missing is seen.
"""

from migrations_playbook.swap.dependents import (
    checks,
    columns,
    foreign_keys,
    functions,
    materialized,
    not_null,
    policies,
    positions,
    privileges,
    publications,
    replica_identity,
    statistics,
    table,
    triggers,
    twins,
    views,
    whole_rows,
)
from migrations_playbook.swap.dependents.base import DependentKind

KINDS: tuple[DependentKind, ...] = (
    table.KIND,
    twins.KIND,
    checks.KIND,
    foreign_keys.KIND,
    # The columns of a replica identity must not be null: it frames NOT NULL.
    not_null.KIND,
    replica_identity.KIND,
    columns.KIND,
    privileges.KIND,
    triggers.KIND,
    views.KIND,
    materialized.KIND,
    policies.KIND,
    statistics.KIND,
    publications.KIND,
    functions.KIND,
    whole_rows.KIND,
    positions.KIND,
)
