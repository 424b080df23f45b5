"""How hard a backfill pushes: by the site's feeling, the server's signals, the owner's settings."""
