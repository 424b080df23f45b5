"""The base classes of the tests, for one database."""

from __future__ import annotations

from django.test import TestCase, TransactionTestCase


class OAuth2ProviderTestCase(TestCase):
    """A test in a transaction."""


class OAuth2ProviderTransactionTestCase(TransactionTestCase):
    """A test that commits."""


def retrieve_current_databases() -> list[str]:
    """Name the databases of the tests."""
    return ["default"]
