"""The operations that migrations import. FROZEN: applied migrations name this module.

The operations stand with their plays; here is their public address.
"""

from migrations_playbook.contract.drop_operations import ContractShadow, DropGroup, DropShadow
from migrations_playbook.contract.ensure import EnsureSwapped
from migrations_playbook.expand.squashed import SquashedExpand
from migrations_playbook.expand.table_lock import WithTableLock

__all__ = [
    "ContractShadow",
    "DropGroup",
    "DropShadow",
    "EnsureSwapped",
    "SquashedExpand",
    "WithTableLock",
]
