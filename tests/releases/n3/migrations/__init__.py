"""The migrations of the releases before, and its own."""

from tests.releases.n2 import migrations as before

__path__ = [*__path__, *before.__path__]
