#!/usr/bin/env python
"""Run the project's commands; `manage.py help` lists them."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import NotSupportedError, OperationalError


def main() -> None:
    """Run the command line. Exit with 1 and one sentence when the surroundings are at fault.

    Wrong settings, a server that cannot be reached and one that is too old are no bugs of this
    program, so their traceback helps nobody. `--traceback` shows it all the same.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "app.settings")
    try:
        execute_from_command_line(sys.argv)
    except (ImproperlyConfigured, NotSupportedError, OperationalError) as error:
        if "--traceback" in sys.argv:
            raise
        # libpq's messages have several lines.
        sys.exit(f"manage.py: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
