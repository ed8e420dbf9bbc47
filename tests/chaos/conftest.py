"""A head without CPUs and three machines of one each, for faults of nodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import RayCluster
from tests.machines import machines, namespaces_can_be_made
from tests.training.runs import torchrun

STEPS = 160
SETTINGS = (f"steps={STEPS}", "checkpoint_every=10", "global_batch=16", "sample_every=1000")


@pytest.fixture(scope="session")
def unbroken(drawn_faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make of the training that the tests break; never interrupted, without Ray."""
    folder = tmp_path_factory.mktemp("unbroken")
    torchrun(2, drawn_faces, folder, *SETTINGS)
    return folder


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head and two machines with a CPU each; the fourth machine is switched off."""
    if not namespaces_can_be_made():
        pytest.skip("network namespaces cannot be made here (that takes root)")
    with machines(4) as hosts:
        soon = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}  # clouds give half a minute and more, the tests seconds
        cluster = RayCluster(hosts, tmp_path_factory.mktemp("nodes"), soon)
        try:
            cluster.start_head()
            for host in hosts[1:3]:
                cluster.start_worker(host)
            yield cluster
        finally:
            cluster.stop()


def training(data: str, storage: Path | str, *more: str, workers: str = "2") -> list[str]:
    """The command that trains as `unbroken` was trained."""
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    return [
        "-m", "cluster.train", "enhancement", "--preset", "tiny", "--data", data, "--storage", str(storage),
        "--name", "run", "--workers", workers, *options, *more,
    ]  # fmt: skip
