"""Random histories of conversions at length; see `history`.

python -m tests.soak.conversions [STEPS]
"""

from __future__ import annotations

import sys

from tests.fixtures.server import throwaway_server
from tests.soak.run import run_at_length


def main(steps: int) -> None:
    with throwaway_server():
        from tests.soak.conversions.history import (  # noqa: PLC0415 - its models need Django
            play_histories,
        )

        run_at_length(play_histories, steps)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
