"""Random histories of conversions at length; see `history`.

python -m tests.soak.conversions [STEPS]
"""

from __future__ import annotations

import sys

from tests.fixtures.server import throwaway_server


def main(steps: int) -> None:
    with throwaway_server():
        from tests.soak.conversions.history import (  # noqa: PLC0415 - its models need Django
            play_histories,
        )

        made = play_histories(examples=steps // 50, steps=50, derandomize=False)
    for what, count in sorted(made.items()):
        sys.stdout.write(f"{count:>7,} {what}\n")
    sys.stdout.write(f"{made.total():,} steps; each as it must be.\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
