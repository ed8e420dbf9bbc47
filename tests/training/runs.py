"""Training runs of tests: what they logged and saved, and the same training never interrupted."""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def losses(logs: Path) -> list[dict[str, float]]:
    """Every logged step's values except the time."""
    lines = [json.loads(line) for line in (logs / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def torchrun(processes: int, data: str, logs: Path, *overrides: str) -> None:
    options = [part for item in overrides for part in ("--set", item)]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
            "benchmarks/torchrun_train.py", "enhancement", "--data", data, "--out", str(logs), "--preset", "tiny",
            *options,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def steps_done(storage: Path) -> int:
    lines = storage / "run" / "enhancement" / "metrics.jsonl"
    return len(lines.read_text().splitlines()) if lines.exists() else 0


def wait_for_step(storage: Path, step: int) -> None:
    deadline = time.monotonic() + 180
    while steps_done(storage) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached; {steps_done(storage)} are done"
        time.sleep(0.05)


def assert_same_run(storage: Path, unbroken: Path, system: str = "enhancement") -> None:
    """The run in `storage` logged and ended with, bit for bit, what the one that torchrun did in `unbroken` did."""
    assert losses(storage / "run" / system) == losses(unbroken / system)
    newest = sorted((storage / "run").glob("checkpoint_*/state.pt"))[-1]
    ours = torch.load(newest, weights_only=True)["networks"]
    theirs = torch.load(unbroken / "final.pt", weights_only=True)
    assert ours.keys() == theirs.keys()
    for name, state in ours.items():
        for parameter, value in state.items():
            assert torch.equal(value, theirs[name][parameter]), f"{name}.{parameter}"
    assert [folder.name for folder in (storage / "store" / system).iterdir()] == ["1"]
