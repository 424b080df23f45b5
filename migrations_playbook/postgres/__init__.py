"""What the plays share with PostgreSQL. It imports no play."""
