"""Two processes against one: the same losses, and Ray Train's faults against an unbroken run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rayface.errors import RayfaceError
from rayface.training.launch import train
from rayface.training.request import TrainRequest
from tests.training.runs import assert_same_run, losses, steps_done, torchrun, wait_for_step

ROOT = Path(__file__).resolve().parents[2]


def test_two_ranks_of_eight_equal_one_of_sixteen(drawn_faces: str, tmp_path: Path) -> None:
    narrowing = ("pruning.rounds=1", "pruning.every=10", "pruning.ratio=0.4", "pruning.round_to=4", "pruning.photos=4")
    # a margin below anything and a band that no factor is in: the strengths change after each round
    adapting = (
        "adaptation.every=5", "adaptation.margin=1e-9", "adaptation.low=0.4999", "adaptation.high=0.5",
        "adaptation.least=0.25",
    )  # fmt: skip
    settings = (
        "precision=fp32", "global_batch=16", "steps=20", "discriminator_rate=0.002", *narrowing, *adapting,
    )  # fmt: skip
    for processes in (1, 2):
        torchrun(processes, drawn_faces, tmp_path / str(processes), *settings)
    one, two = (losses(tmp_path / str(processes) / "enhancement") for processes in (1, 2))
    trails = [json.loads((tmp_path / str(n) / "enhancement" / "pruning_trail.json").read_text()) for n in (1, 2)]
    assert len(trails[0]) > 5
    for ours, theirs in zip(*trails, strict=True):  # scores are in dB and rounded; all else is the same
        assert theirs == {
            key: pytest.approx(value, abs=2e-3) if "score" in key else value for key, value in ours.items()
        }
    assert len(one) == 20
    strengths = {value for line in one for key, value in line.items() if key.endswith("strength/blur")}
    assert len(strengths) > 1
    for ours, theirs in zip(one, two, strict=True):
        for key in ours:
            if "loss/" in key or "strength/" in key:
                assert theirs[key] == pytest.approx(ours[key], rel=1e-4), f"{key} at step {ours['step']}"


STEPS = 60
OVERRIDES = (f"steps={STEPS}", "checkpoint_every=10", "global_batch=16", "sample_every=1000")
REQUEST = {
    "systems": ("enhancement",),
    "preset": "tiny",
    "workers": (2, 2),
    "overrides": OVERRIDES,
    "cpus_per_worker": 1,
}


@pytest.fixture(scope="module")
def unbroken(drawn_faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by two processes under torchrun, never interrupted: what Ray adds must not change a bit."""
    folder = tmp_path_factory.mktemp("unbroken")
    torchrun(2, drawn_faces, folder, *OVERRIDES)
    return folder


def own_workers() -> list[int]:
    """Training workers of this session's cluster; other clusters of this machine are not ours to kill."""
    import psutil
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path()).name
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "RayTrainWorker" in " ".join(process.info["cmdline"] or []):
            raylet = process.parent()
            if raylet is not None and session in " ".join(raylet.cmdline()):
                found.append(process.pid)
    return found


@contextmanager
def driver(storage: Path, data: str, **changes: object) -> Iterator[None]:
    """A training driver in a process of its own, on this session's cluster; killed when the block ends."""
    import ray

    script = (
        "import sys, json; from rayface.training.launch import train; "
        "from rayface.training.request import TrainRequest; "
        "request = json.loads(sys.argv[1]); "
        "train(TrainRequest(**{k: tuple(v) if isinstance(v, list) else v for k, v in request.items()}))"
    )
    request = {**REQUEST, "data": data, "storage": str(storage), "name": "run", **changes}
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with (storage / "driver.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", script, json.dumps(request)], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.ray
def test_killed_worker_and_killed_driver_end_as_the_unbroken_run(
    ray_cluster: None, unbroken: Path, drawn_faces: str, tmp_path: Path
) -> None:
    """SIGKILL of a worker, then of the driver, the newest checkpoint cut off: bit for bit the unbroken run's model."""
    with driver(tmp_path, drawn_faces):
        wait_for_step(tmp_path, 12)
        os.kill(own_workers()[0], signal.SIGKILL)
        wait_for_restart(tmp_path)
        wait_for_step(tmp_path, 30)
    assert steps_done(tmp_path) < STEPS, "the driver was killed too late to show anything"
    newest = sorted((tmp_path / "run").glob("checkpoint_*/state.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])  # and half a file: the one before is taken
    train(TrainRequest(data=drawn_faces, storage=str(tmp_path), name="run", **REQUEST))  # type: ignore[arg-type]

    assert_same_run(tmp_path, unbroken)
    other = TrainRequest(data=drawn_faces, storage=str(tmp_path), name="run", **{**REQUEST, "systems": ("parsing",)})  # type: ignore[arg-type]
    with pytest.raises(RayfaceError, match="checkpoint of enhancement, not of parsing"):
        train(other)


def wait_for_restart(storage: Path) -> None:
    """Until the lines after the checkpoint are dropped; fails when the run just goes on."""
    most, deadline = steps_done(storage), time.monotonic() + 120
    while steps_done(storage) >= most:
        most = max(most, steps_done(storage))
        assert most < STEPS, "the run went on as if no worker had been killed"
        assert time.monotonic() < deadline, "the run did not restart"
        time.sleep(0.01)


@pytest.mark.ray
@pytest.mark.slow
def test_two_then_one_then_two_workers_stay_within_tolerance(
    ray_cluster: None, drawn_faces: str, tmp_path: Path
) -> None:
    """Another number of workers at every start; the losses are those of a run that always had two."""
    settings = ("precision=fp32", "global_batch=16", "checkpoint_every=10", f"steps={STEPS}", "sample_every=1000")
    for name in ("elastic", "fixed"):
        (tmp_path / name).mkdir()
    for workers, until in ((2, 20), (1, 40)):
        with driver(tmp_path / "elastic", drawn_faces, overrides=settings, workers=(workers, workers)):
            wait_for_step(tmp_path / "elastic", until)
    request = {**REQUEST, "overrides": settings, "data": drawn_faces, "name": "run"}
    for name in ("elastic", "fixed"):
        train(TrainRequest(**{**request, "storage": str(tmp_path / name)}))  # type: ignore[arg-type]
    ours, theirs = (losses(tmp_path / name / "run" / "enhancement") for name in ("elastic", "fixed"))
    assert [line["step"] for line in ours] == list(range(STEPS))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss/generator"] == pytest.approx(b["loss/generator"], rel=1e-3)


@pytest.mark.ray
def test_what_cannot_be_trained_is_said_before_anything_starts(
    ray_cluster: None, drawn_faces: str, tmp_path: Path
) -> None:
    def request(**changes: object) -> TrainRequest:
        return TrainRequest(**{**REQUEST, "data": drawn_faces, "storage": str(tmp_path), **changes})  # type: ignore[arg-type]

    with pytest.raises(RayfaceError, match="0 GPUs"):
        train(request(gpu=True))
    with pytest.raises(RayfaceError, match="dataset"):
        train(request(data=str(tmp_path / "nothing")))
    with pytest.raises(RayfaceError, match="no model 'enhancement@7'"):
        train(request(init="enhancement@7", preset=""))
    with pytest.raises(RayfaceError, match="multiple of 12"):
        train(request(workers=(1, 4)))
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(RayfaceError, match="cannot be written"):
        train(request(storage=str(blocked)))


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
