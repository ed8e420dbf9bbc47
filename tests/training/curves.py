"""Rewrite curves.json: `python -m tests.training.curves`, when a change means to move the numbers."""

import json
import tempfile
from pathlib import Path

import torch

from rayface.data.synth import synthesise
from tests.training.test_loop import CURVES, trained

if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        synthesise(f"{folder}/drawn", count=64, size=64, seed=7)
        curves = {}
        for name in ("parsing", "enhancement"):
            _, lines = trained(name, f"{folder}/drawn", Path(folder) / "logs", "steps=8")
            curves[name] = [line[key] for line in lines for key in line if key.startswith("loss/")]
    CURVES.write_text(json.dumps(curves, indent=1) + "\n")
