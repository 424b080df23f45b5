"""The plays' common ways to PostgreSQL. This folder imports no play."""
