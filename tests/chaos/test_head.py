"""The head dies and comes back with what Redis kept: a training that is submitted again, a service that goes on."""

import contextlib
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayface.imaging.codec import decode, encode
from serve.proxy import free_ports
from tests.chaos.conftest import STEPS, training
from tests.clusters import ROOT, RayCluster
from tests.machines import Machine, address_of_this_machine, machines, namespaces_can_be_made
from tests.scenes import scene
from tests.training.runs import assert_same_run, steps_done, wait_for_step

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@pytest.fixture
def hosts() -> Iterator[list[Machine]]:
    if not namespaces_can_be_made():
        pytest.skip("network namespaces cannot be made here (that takes root)")
    with machines(3) as made:
        yield made


@pytest.fixture
def redis(hosts: list[Machine]) -> Iterator[str]:
    """host:port of a Redis that is on no machine that dies."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield f"{address_of_this_machine(hosts)}:{port}"
    process.kill()


def test_a_training_goes_on_when_it_is_submitted_again(
    hosts: list[Machine], redis: str, unbroken: Path, drawn_faces: str, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    cluster = RayCluster(hosts, logs)
    try:
        cluster.start_head(redis=redis)
        for host in hosts[1:]:
            cluster.start_worker(host)
        before = set(cluster.ids)
        cluster.begin("train", *training(drawn_faces, tmp_path))
        wait_for_step(tmp_path, 25)
        hosts[0].power_off()
        time.sleep(3)
        assert steps_done(tmp_path) < STEPS
        cluster.start_head(redis=redis)
        cluster.until(lambda: len(before & cluster.alive()) >= 2, "the workers of before")
        cluster.begin("again", *training(drawn_faces, tmp_path))
        assert "SUCCEEDED" in cluster.wait_for_job("again")
    finally:
        cluster.stop()
    assert_same_run(tmp_path, unbroken)


def test_a_service_answers_without_its_head(hosts: list[Machine], redis: str, tmp_path: Path) -> None:
    # how long nodes wait for a head, in KubeRay's pods; Ray's own is one minute
    cluster = RayCluster(hosts, tmp_path, {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"})
    photo, served = encode(scene(0), "png"), f"http://{hosts[1].address}:8000"
    try:
        cluster.start_head(redis=redis)
        for host in hosts[1:]:
            cluster.start_worker(host, cpus=2)
        deployed = subprocess.run(
            [str(Path(sys.executable).with_name("serve")), "deploy", "-a", cluster.jobs, "serve/config.yaml"],
            cwd=ROOT, capture_output=True, text=True, env={**cluster.environment},
        )  # fmt: skip
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        cluster.until(lambda: answer(served, photo) is not None, "the service", 300)
        assert all(answer(served, photo) for _ in range(4))
        hosts[0].power_off()
        answers = []
        for _ in range(8):
            answers.append(answer(served, photo))
            time.sleep(1)
        assert all(answers), f"{sum(a is None for a in answers)} of {len(answers)} photos got no answer"
        cluster.start_head(redis=redis)
        cluster.until(lambda: applications(cluster) == ["RUNNING"], "the application")
        assert answer(served, photo) is not None
    finally:
        cluster.stop()


def applications(cluster: RayCluster) -> list[str]:
    return [app["status"] for app in cluster.get("/api/serve/applications/")["applications"].values()]


def answer(served: str, photo: bytes) -> bytes | None:
    """The enhanced photo; None where none comes."""
    request = urllib.request.Request(f"{served}/v1/enhance", photo, {"Content-Type": "image/png"})
    with contextlib.suppress(OSError, urllib.error.HTTPError):
        with urllib.request.urlopen(request, timeout=20) as response:
            content: bytes = response.read()
        assert decode(content).shape == scene(0).shape
        return content
    return None
