"""Refuse files above 1 MB (a pre-commit hook): data sets, runs and models do not belong into the history."""

import sys
from pathlib import Path

LIMIT = 1_000_000


def main(names: list[str]) -> int:
    """Print the files that are too large; 1 if there are any."""
    large = [(name, Path(name).stat().st_size) for name in names if Path(name).is_file()]
    large = [(name, size) for name, size in large if size > LIMIT]
    for name, size in large:
        print(f"{name}: {size / 1e6:.1f} MB, the limit is {LIMIT / 1e6:.0f} MB")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
