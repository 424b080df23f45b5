"""Migrations of `tickets` that were squashed: the table is made with its shadow column."""
