"""How hard a backfill pushes: what the site feels, what the server says, what the owner has set."""
