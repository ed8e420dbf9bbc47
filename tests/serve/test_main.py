"""`python -m serve` as a process of its own, with HAProxy in front where there is one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from rayface.imaging.codec import decode, encode
from rayface.store import ModelStore
from serve.proxy import FOLDER, free_ports, quick_ways

ROOT = Path(__file__).resolve().parents[2]


def variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")}


def test_a_proxy_that_was_chosen_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    before = variables()
    with quick_ways():
        assert variables() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="HAProxy's package is for Linux")
def test_two_services_do_not_meet_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_NBTHREAD", "3")
    before, found = variables(), []
    for _ in range(2):
        with quick_ways():
            found.append(variables())
            folder = Path(os.environ["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"])
            assert folder.is_dir()
        assert variables() == before
        assert not folder.exists()
    one, other = found
    own = {name for name in one if name.endswith(("_PORT", "_PATH", "_LOC", "_BASE", "_FILE"))}
    assert len(own) == 7
    assert all(one[name] != other[name] for name in own)
    assert one["RAY_SERVE_HAPROXY_NBTHREAD"] == "3"
    assert len(one["RAY_SERVE_HAPROXY_SOCKET_PATH"]) < 40


def test_free_ports_are_none_that_are_handed_out_or_taken() -> None:
    with socket.socket() as taken:
        ports = free_ports(50)
        taken.bind(("", ports[0]))
        assert len(set(ports)) == 50
        assert all(20_000 <= port < 30_000 for port in ports)
        assert ports[0] not in free_ports(500)


def folders() -> set[Path]:
    """Of HAProxy, by running services."""
    return {path.parent for path in Path(FOLDER).glob("rayface-*/*/haproxy.cfg")}


def served(process: "subprocess.Popen[str]", log: Path) -> str:
    deadline = time.monotonic() + 240
    while " is up at " not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return log.read_text().partition(" is up at ")[2].split()[0]


@pytest.mark.ray
def test_photos_of_more_than_ray_serve_allows_in_a_message_and_a_clean_end(
    tiny_store: ModelStore, face_png: bytes, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "serve", "--port", str(port), "--store", tiny_store.uri]
    log, before = tmp_path / "log", folders()
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, text=True)
    try:
        url = served(process, log)
        noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1200, 1500), dtype=np.uint8))
        with httpx.Client(base_url=url, timeout=120) as client:
            sent = encode(noise, "png")
            assert len(sent) > 5_000_000
            answer = client.post("/v1/enhance?format=png", content=sent)
            assert answer.status_code == 200, answer.text
            assert torch.equal(decode(answer.content), noise)
            face = client.post("/v1/enhance?format=png", content=face_png)
            assert '"changed":1' in face.headers["x-rayface-summary"]
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
    assert status == 0, log.read_text()
    assert "Stopping" in log.read_text()
    assert folders() <= before
