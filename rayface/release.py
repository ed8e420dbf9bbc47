"""Where the release weights lie: in a checkout beside this package, in an installed wheel inside it."""

from pathlib import Path

_INSTALLED = Path(__file__).resolve().parent / "weights"
WEIGHTS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1] / "weights"
