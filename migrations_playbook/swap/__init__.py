"""Play 3: prepare, exchange, verify. Its own inverse."""
