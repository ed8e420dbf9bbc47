"""Storage that hangs, refuses or returns half a file, and a disk that is full, under a run of two workers."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buckets import Bucket, FaultyServer, bucket, faulty, half, hang, refuse
from tests.chaos.conftest import STEPS, training
from tests.clusters import RayCluster
from tests.training.runs import assert_same_run, steps_done, wait_for_step

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@pytest.fixture
def storage() -> Iterator[tuple[Bucket, FaultyServer]]:
    with bucket() as held, faulty(held) as (reached, server):
        yield reached, server


def wait_for_checkpoints(storage: Bucket, count: int) -> None:
    deadline = time.monotonic() + 300
    while sum(key.endswith("run.json") for key in storage.names("runs/run/")) < count:
        assert time.monotonic() < deadline, f"{count} checkpoints did not come"
        time.sleep(0.2)


def fetch(storage: Bucket, folder: Path) -> None:
    for key in storage.names("runs/"):
        path = folder / key.removeprefix("runs/")
        if not key.endswith("/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(storage.read(key))


@pytest.mark.parametrize("fault", [refuse, hang])
def test_storage_that_is_away_for_a_while(
    head: RayCluster, storage: tuple[Bucket, FaultyServer], unbroken: Path, drawn_faces: str, tmp_path: Path,
    fault: object,
) -> None:  # fmt: skip
    held, server = storage
    name = f"away-{fault.__name__}"  # type: ignore[attr-defined]
    head.begin(name, *training(drawn_faces, "s3://faces/runs"), settings=held.environment)
    wait_for_checkpoints(Bucket("127.0.0.1", server.bucket.port), 2)
    server.fault = fault  # type: ignore[assignment]
    time.sleep(20)
    server.fault = None
    assert server.taken
    assert "SUCCEEDED" in head.wait_for_job(name)
    fetch(held, tmp_path)
    assert_same_run(tmp_path, unbroken)


def test_half_a_checkpoint_is_read(
    head: RayCluster, storage: tuple[Bucket, FaultyServer], unbroken: Path, drawn_faces: str, tmp_path: Path
) -> None:
    """The driver is stopped; what it goes on from arrives cut off at first."""
    held, server = storage
    head.begin("first", *training(drawn_faces, "s3://faces/runs"), settings=held.environment)
    wait_for_checkpoints(held, 2)
    head.ray("job", "stop", "first")
    head.wait_for_job("first")
    cut_off = half("state.pt")
    server.fault = lambda handler: server.taken < 6 and cut_off(handler)
    head.begin("second", *training(drawn_faces, "s3://faces/runs"), settings=held.environment)
    assert "SUCCEEDED" in head.wait_for_job("second")
    assert server.taken >= 6
    fetch(held, tmp_path)
    assert_same_run(tmp_path, unbroken)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here (that takes root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(head: RayCluster, unbroken: Path, drawn_faces: str, small_disk: Path) -> None:
    """The run fails with the reason; with room again the same command goes on to the same end."""
    command = training(drawn_faces, small_disk)
    head.begin("fills", *command)
    wait_for_step(small_disk, 25)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(100_000))
                file.flush()
        except OSError:
            pass
    told = head.wait_for_job("fills")
    assert "FAILED" in told
    assert "a disk is full" in told
    assert steps_done(small_disk) < STEPS
    filler.unlink()
    head.begin("goes-on", *command)
    assert "SUCCEEDED" in head.wait_for_job("goes-on")
    assert_same_run(small_disk, unbroken)
