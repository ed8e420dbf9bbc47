"""Rewrite curves.json: `python -m tests.training.curves`, only when a change means to move the numbers."""

import json
import tempfile
from pathlib import Path

import torch

from rayface.systems.base import SYSTEMS
from tests.training.patterns import write_patterns
from tests.training.test_loop import CURVES, losses_of

if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_patterns(Path(folder))
        curves = {name: losses_of(name, folder, Path(folder) / "logs") for name in SYSTEMS}
    CURVES.write_text(json.dumps(curves, indent=1) + "\n")
