"""After the swap: the leaked values stay in the retired column, and none comes back.

Each row's leaked value is in the retired column, which keeps its unique index. Values that leave
the retired column are remembered in a table of their own, as SHA-256 digests. The first swap makes
this table. The table stays through reverts and swaps, and goes with the contract. Three functions
have a duty each:

- *ward* (UPDATE, first of all triggers): a leaked value about to become live, the row's own or a
  remembered value, comes from a stale save. The live value stays, the rest of the save goes
  through, and the hit is counted. No UPDATE sets the retired value.
- *copy* (INSERT and UPDATE, last of all triggers, so that the site's own have had their say): a new
  live value is copied into the retired column. So a row written since the swap has the same value
  in both columns, and a revert loses no token. Another row's leaked value is a unique violation,
  inserted or given to a row; so is an inserted value that is remembered.
- *remember* (DELETE and UPDATE, last too): a leaked value is remembered when it leaves its column.
  The function stays at work after a revert, when the leaked values are live, until the next swap.
  Then it remembers whatever the site replaces, so that no exchange brings back what was revoked.

PostgreSQL deletes and inserts a row when an UPDATE moves the row to another partition. *remember*
marks the row for the rest of the statement (`base.MOVED`), and the row keeps both its values.

Hits are counted in two sequences: they take no row lock, count even when the transaction rolls
back, and store a number and a time, never a value.

Nothing is looked for by the table's name, which may change: triggers are bound to the table and its
columns, and call functions in the same schema with a part of their names in common.
"""
