"""Two processes against one: the same losses, and Ray Train's faults against an unbroken run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rayface.errors import RayfaceError
from rayface.training.launch import train
from rayface.training.request import TrainRequest

ROOT = Path(__file__).resolve().parents[2]


def losses(logs: Path) -> list[dict[str, float]]:
    """Every logged step's values except the time."""
    lines = [json.loads(line) for line in (logs / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def torchrun(processes: int, data: str, logs: Path, *overrides: str) -> None:
    options = [part for item in overrides for part in ("--set", item)]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *(
            "benchmarks/torchrun_train.py",
            "enhancement",
            "--data",
            data,
            "--out",
            str(logs),
            "--preset",
            "tiny",
        ),
    ]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True, timeout=300)


def test_two_ranks_of_eight_equal_one_of_sixteen(drawn_faces: str, tmp_path: Path) -> None:
    settings = ("precision=fp32", "global_batch=16", "steps=20")
    for processes in (1, 2):
        torchrun(processes, drawn_faces, tmp_path / str(processes), *settings)
    one, two = (losses(tmp_path / str(processes) / "enhancement") for processes in (1, 2))
    assert len(one) == 20
    for ours, theirs in zip(one, two, strict=True):
        for key in ours:
            if key.startswith("loss/"):
                assert theirs[key] == pytest.approx(ours[key], rel=1e-4), f"{key} at step {ours['step']}"


REQUEST = {
    "systems": ("enhancement",),
    "preset": "tiny",
    "workers": (2, 2),
    "overrides": ("steps=90", "checkpoint_every=10", "global_batch=16", "sample_every=1000"),
    "cpus_per_worker": 1,
}


@pytest.fixture(scope="module")
def unbroken(ray_cluster: None, drawn_faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("unbroken")
    train(TrainRequest(data=drawn_faces, storage=str(storage), name="run", **REQUEST))  # type: ignore[arg-type]
    return storage


def steps_done(storage: Path) -> int:
    lines = storage / "run" / "enhancement" / "metrics.jsonl"
    return len(lines.read_text().splitlines()) if lines.exists() else 0


def wait_for_step(storage: Path, step: int) -> None:
    deadline = time.monotonic() + 180
    while steps_done(storage) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached; {steps_done(storage)} are done"
        time.sleep(0.05)


def worker_pids() -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if b"RayTrainWorker" in (process / "cmdline").read_bytes():
                    yield int(process.name)
            except OSError:
                continue  # it ended meanwhile


@pytest.mark.ray
def test_killed_worker_and_killed_driver_end_as_the_unbroken_run(
    unbroken: Path, drawn_faces: str, tmp_path: Path
) -> None:
    """SIGKILL of a worker, then of the driver, then a resumption: bit for bit the unbroken run's model."""
    import ray

    address = ray.get_runtime_context().gcs_address
    script = (
        "import sys, json; from rayface.training.launch import train; "
        "from rayface.training.request import TrainRequest; "
        "request = json.loads(sys.argv[1]); "
        "train(TrainRequest(**{k: tuple(v) if isinstance(v, list) else v for k, v in request.items()}))"
    )
    request = {**REQUEST, "data": drawn_faces, "storage": str(tmp_path), "name": "run"}
    with (tmp_path / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", script, json.dumps(request)],
            cwd=ROOT, env={**os.environ, "RAY_ADDRESS": address}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for_step(tmp_path, 15)
        os.kill(next(worker_pids()), signal.SIGKILL)
        before = steps_done(tmp_path)
        while steps_done(tmp_path) >= before:  # the restart drops what came after the checkpoint
            if steps_done(tmp_path) > before + 8:
                break
            time.sleep(0.02)
        wait_for_step(tmp_path, 45)
    finally:
        driver.kill()
        driver.wait()
    assert steps_done(tmp_path) < 90, "the driver was killed too late to show anything"
    train(TrainRequest(data=drawn_faces, storage=str(tmp_path), name="run", **REQUEST))  # type: ignore[arg-type]

    assert losses(tmp_path / "run" / "enhancement") == losses(unbroken / "run" / "enhancement")
    models = [folder / "store" / "enhancement" / "1" / "model.safetensors" for folder in (unbroken, tmp_path)]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert not (tmp_path / "store" / "enhancement" / "2").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_two_then_one_then_two_workers_stay_within_tolerance(
    ray_cluster: None, drawn_faces: str, tmp_path: Path
) -> None:
    settings = ("precision=fp32", "global_batch=16", "checkpoint_every=10")
    for workers, steps in ((2, 10), (1, 20), (2, 30)):
        request = TrainRequest(
            ("enhancement",), drawn_faces, "tiny", (workers, workers), storage=str(tmp_path), name="elastic",
            overrides=(*settings, f"steps={steps}", "losses.adversarial=0.02"), cpus_per_worker=1,
        )  # fmt: skip
        train(request)
    fixed = TrainRequest(
        ("enhancement",), drawn_faces, "tiny", (2, 2), storage=str(tmp_path), name="fixed",
        overrides=(*settings, "steps=30"), cpus_per_worker=1,
    )  # fmt: skip
    train(fixed)
    ours, theirs = (losses(tmp_path / name / "enhancement") for name in ("elastic", "fixed"))
    assert [line["step"] for line in ours] == list(range(30))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss/generator"] == pytest.approx(b["loss/generator"], rel=1e-3)


@pytest.mark.ray
def test_what_cannot_be_trained_is_said_before_anything_starts(
    unbroken: Path, drawn_faces: str, tmp_path: Path
) -> None:
    def request(**changes: object) -> TrainRequest:
        return TrainRequest(**{**REQUEST, "data": drawn_faces, "storage": str(tmp_path), **changes})  # type: ignore[arg-type]

    with pytest.raises(RayfaceError, match="0 GPUs"):
        train(request(gpu=True))
    with pytest.raises(RayfaceError, match="dataset"):
        train(request(data=str(tmp_path / "nothing")))
    with pytest.raises(RayfaceError, match="no model 'enhancement@7'"):
        train(request(init="enhancement@7"))
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(RayfaceError, match="cannot be written"):
        train(request(storage=str(blocked)))
    with pytest.raises(RayfaceError, match="checkpoint of enhancement, not of parsing"):
        train(request(systems=("parsing",), storage=str(unbroken), name="run"))


def test_gradients_of_lazy_r1_reach_every_parameter() -> None:
    """DDP needs every parameter in R1's graph; without `0 * logits` the head's bias has none."""
    from rayface.systems.base import PhaseState, get_system

    system = get_system("enhancement")
    config = system.config("tiny")
    network = system.build(config)["discriminator"]
    state = PhaseState(config, 0, {})
    phase = next(p for p in system.phases(config) if p.name == "r1")
    loss, _ = phase.loss({"clear": torch.randn(2, 3, 64, 64)}, {"discriminator": network}, state)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
