"""Facts that parse trees have and pg_depend lacks: positions, whole rows, a MERGE's targets.

A parse tree's text (`pg_node_tree`) has the relations by oid and the columns by number. The text is
data, the same in every language; nodes and fields are named as PostgreSQL 14 to 18 name them.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

# A list of column names in an ALIAS, at least a name long; and a list that may be empty.
_NAMES = r'\((?:[^()"\\]|\\.|"(?:[^"\\]|\\.)*")+\)'
_SOME_NAMES = rf"(?:<>|{_NAMES})"
# A range table entry whose relation has an alias list, FROM t AS a (b, c): PostgreSQL writes the
# alias again with a name for each column, by position. `of_relations` puts in the relation's oid.
# PostgreSQL 14 writes RTE.
ALIAS_LIST = (
    r"\{(?:RANGETBLENTRY|RTE) :alias \{ALIAS :aliasname \S+ :colnames "
    + _NAMES
    + r"\} :eref \{ALIAS :aliasname \S+ :colnames "
    + _SOME_NAMES
    + r"\} :rtekind 0 :relid %s "
)
# A reference to a whole row, such as f(t): pg_depend has the table in it, and no column.
WHOLE_ROW = ":varattno 0 "
# An action of a MERGE: pg_depend has the columns that the action reads, and not the columns that
# the action writes.
MERGE_ACTION = "{MERGEACTION "


def of_relations(pattern: str, oids: Iterable[int]) -> sql.Literal:
    """Build the pattern that means these relations, any of them."""
    return sql.Literal(pattern.replace("%s", f"(?:{'|'.join(map(str, oids))})"))
