"""Training by `ray job submit` on a head started as a user starts one."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.proxy import free_ports

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
# A head of our own with a token of its own: whoever reaches a job port without one can run code.
AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# As in an activated environment: the job's `python` is this one.
PATH = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The job address of a `ray start --head`; stopped by its process group, not by `ray stop`, which stops all."""
    port, client_port, agent_port = free_ports(3)
    log = tmp_path_factory.mktemp("head") / "log"
    # sockets want a short path; and a head that is killed must not stay in /tmp/ray as the newest cluster
    temporary = tempfile.mkdtemp(prefix="rf-")
    command = [
        RAY, "start", "--head", "--block", "--port=0", f"--dashboard-port={port}", "--num-cpus=2",
        f"--ray-client-server-port={client_port}", "--include-dashboard=true", "--disable-usage-stats",
        "--object-store-memory=200000000", f"--temp-dir={temporary}",
        f"--dashboard-agent-listen-port={agent_port}",
    ]  # fmt: skip
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **AUTH, **PATH}, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_up(address, process, log)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


def wait_until_up(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    header = {"Authorization": f"Bearer {AUTH['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{address}/api/version", headers=header)
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=2):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)


def submit(address: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", "python", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, **AUTH},
    )  # fmt: skip


@pytest.mark.ray
def test_a_submitted_job_trains_and_saves_its_model(head: str, drawn_faces: str, tmp_path: Path) -> None:
    arguments = ("--data", drawn_faces, "--preset", "tiny", "--storage", str(tmp_path), "--name", "job")
    done = submit(head, "-m", "cluster.train", "parsing", *arguments, "--set", "steps=4", "--set", "checkpoint_every=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout + done.stderr
    info = json.loads((tmp_path / "store" / "parsing" / "1" / "config.json").read_text())
    assert info["run"] == "job"
    assert info["steps"] == 4
    assert len((tmp_path / "job" / "parsing" / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.ray
def test_a_job_that_cannot_run_fails_with_the_reason(head: str, tmp_path: Path) -> None:
    done = submit(head, "-m", "cluster.train", "parsing", "--data", str(tmp_path), "--storage", str(tmp_path))
    assert done.returncode != 0
    assert "rayface data ingest" in done.stdout + done.stderr
