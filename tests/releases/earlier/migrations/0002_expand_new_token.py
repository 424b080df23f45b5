"""The same file."""

from importlib import import_module

Migration = import_module("tickets.migrations.0002_expand_new_token").Migration
