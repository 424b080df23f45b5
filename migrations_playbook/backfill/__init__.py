"""Play 2: fill the nulls, in batches of a short transaction each."""
