"""A Django database backend that brings its own PostgreSQL.

`ENGINE = "app.embedded"` is Django's PostgreSQL backend with one difference: the first connection
starts a server (and creates it, and the database), and the last process to use it stops it.
Importing it starts nothing.
"""
