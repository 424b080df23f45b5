"""The kinds of dependents, in the order in which the exchange carries them over.

To add a kind: a module in `own` or `readers`, which ends with its `KIND`, and a row here. An object
in pg_depend that no kind claims is refused (`unknown`), so a missing kind is seen.
"""

from migrations_playbook.swap.dependents import taken_names
from migrations_playbook.swap.dependents.base import DependentKind
from migrations_playbook.swap.dependents.own import check_constraints as checks
from migrations_playbook.swap.dependents.own import (
    columns,
    foreign_keys,
    later_triggers,
    not_null,
    privileges,
    replica_identity,
    statistics,
    table,
    triggers,
    twins,
)
from migrations_playbook.swap.dependents.readers import (
    function_rows,
    functions,
    materialized,
    policies,
    positions,
    publications,
    remade,
    through_functions,
    views,
    whole_rows,
)

KINDS: tuple[DependentKind, ...] = (
    table.KIND,
    twins.KIND,
    checks.KIND,
    foreign_keys.KIND,
    # The columns of a replica identity must not be null: its steps frame the steps of NOT NULL.
    not_null.KIND,
    replica_identity.KIND,
    columns.KIND,
    privileges.KIND,
    triggers.KIND,
    later_triggers.KIND,
    # Their readers lock the views above first.
    remade.KIND,
    views.KIND,
    materialized.KIND,
    policies.KIND,
    statistics.KIND,
    publications.KIND,
    functions.KIND,
    whole_rows.KIND,
    through_functions.KIND,
    function_rows.KIND,
    taken_names.KIND,
    positions.KIND,
)
