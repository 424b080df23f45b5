"""The migrations of the releases before, and its own."""

from tickets import migrations as before

__path__ = [*__path__, *before.__path__]
