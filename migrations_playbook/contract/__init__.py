"""Play 4: drop the shadow column and all that belongs to the column."""
