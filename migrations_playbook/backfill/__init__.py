"""Play 2: fill the nulls, in batches of one short transaction each."""
