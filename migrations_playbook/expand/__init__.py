"""Play 1: the shadow column and its triggers, in a migration, under a bounded lock."""
