"""What the next release has as its first migration: the same file."""

from importlib import import_module

Migration = import_module("tickets.migrations.0001_initial").Migration
