"""What every test shares: quiet and repeatable settings, one Ray cluster a session, the order of the tests."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from rayface.ray_session import PRIVATE

if TYPE_CHECKING:
    from tests.clusters import RayCluster

ROOT = Path(__file__).resolve().parents[1]

# Before torch or ray is imported anywhere. Worker processes inherit them from here through the raylet, which
# is quicker than a runtime environment (no agent to ask, pre-started workers can be used). One thread: sums
# in the same order on every machine, and no fight for the cores.
os.environ["OMP_NUM_THREADS"] = "1"
# Workers and subprocesses find rayface, serve, tune, cluster and tests wherever pytest was started.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
for name, value in PRIVATE.items():
    os.environ.setdefault(name, value)
# Without it rayface.ray_session starts a cluster of its own. Not "local": `ray job submit` then stumbles over
# every other cluster on the machine.
os.environ.pop("RAY_ADDRESS", None)

CLUSTER_CPUS = 4  # more than a small machine has: the tests' workers wait for each other, they do not compute

hypothesis.settings.register_profile(
    "rayface",
    deadline=None,
    derandomize=True,
    max_examples=25,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("rayface")


def unwanted(markexpr: str, environment: str | None) -> set[str]:
    """The marks whose tests are not to run: those that `-m` does not name; RAYFACE_SLOW=1 asks for `slow`."""
    asked = {mark for mark in ("slow", "chaos") if mark in markexpr}
    return {"slow", "chaos"} - asked - ({"slow"} if environment == "1" else set())


def cost(item: pytest.Item) -> int:
    """0 for unit tests, 1 for tests on the Ray cluster, 2 for slow ones: a cheap failure shows first."""
    if item.get_closest_marker("slow") or item.get_closest_marker("chaos"):
        return 2
    return 1 if item.get_closest_marker("ray") or "ray_cluster" in getattr(item, "fixturenames", ()) else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order tests by cost and deselect (not skip) the slow ones and the faults unless asked for."""
    items.sort(key=cost)  # stable: within a cost, the order of the files stays
    marks = unwanted(config.option.markexpr, os.environ.get("RAYFACE_SLOW"))
    left_out = [item for item in items if any(item.get_closest_marker(mark) for mark in marks)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real local Ray cluster of 4 (logical) CPUs, started once a session.

    Without the dashboard: it costs 2 to 3 s at the start (6.6 against 8.8 s on 2 cores). Tests that submit
    jobs start their own `ray start --head`, as a user does.
    """
    import ray

    ray.init(
        address="local",
        num_cpus=CLUSTER_CPUS,
        include_dashboard=False,
        object_store_memory=300_000_000,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 2000},  # not 10 s, for the tests that wait for figures
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[RayCluster]":
    """A head with two CPUs on this machine, as `ray start` makes it, to submit jobs to."""
    from tests.clusters import RayCluster
    from tests.machines import Machine

    cluster = RayCluster([Machine("127.0.0.1")], tmp_path_factory.mktemp("head"))
    try:
        cluster.start_head(cpus=2)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """An empty folder (absolute path) for a run's checkpoints or a model store."""
    folder = tmp_path / "storage"
    folder.mkdir()
    return str(folder)


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset folder of 64 drawn faces of 64 px."""
    from rayface.data.synth import synthesise

    folder = tmp_path_factory.mktemp("drawn")
    synthesise(str(folder), count=64, size=64, seed=7)
    return str(folder)
