"""The migrations of the app, and one more."""

from tickets import migrations as before

__path__ = [*__path__, *before.__path__]
