"""What the table itself has: columns, indexes, constraints, privileges, statistics, triggers."""
