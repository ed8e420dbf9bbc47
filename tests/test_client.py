"""The Python client against the service's HTTP interface on a real server, over the pipeline in this process."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from rayface.client import Client, ServiceError
from rayface.imaging.codec import decode, encode
from rayface.store import ModelStore
from serve.keys import digest
from serve.settings import Settings
from tests.scenes import same_pixels, scene
from tests.serve.in_process import Held, served
from tests.tiny_models import save_tiny_models

KEY = "rf_a key"


@dataclass
class Running:
    url: str
    service: Held


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    store: ModelStore = save_tiny_models(tmp_path_factory.mktemp("tiny"))
    settings = Settings(
        store=store.uri,
        steps=("enhance",),
        max_in_flight=3,
        retry_after_s=1,
        api_keys={"tests": digest(KEY)},
    )
    service = Held(store, settings)
    service.go.set()
    with served(service) as url:
        yield Running(url, service)


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.url, KEY, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    path.write_bytes(encode(scene(0), "png"))
    return path


def test_photos_come_back_with_their_reports(client: Client, photo: Path) -> None:
    done = client.enhance(photo, format="png")
    assert (done.media_type, done.report["changed"]) == ("image/png", 1)
    assert decode(done.image).shape == scene(0).shape
    assert client.report(done.report["request_id"]) == done.report
    kept = client.process(photo.read_bytes(), ["enhance"], strength=0, format="png")
    assert kept.report["changed"] == 0
    assert bool((decode(kept.image) == scene(0)).all())
    assert client.process(str(photo), "enhance", quality=50).media_type == "image/jpeg"


def test_boxes_choose_faces(client: Client, photo: Path) -> None:
    elsewhere = client.enhance(photo, boxes=[(0, 0, 5, 5), (0.5, 0.5, 6, 6)])
    assert elsewhere.report["changed"] == 0
    box = client.detect(photo)["faces"][0]["box"]
    assert client.enhance(photo, boxes=[box]).report["changed"] == 1


def test_several_photos_in_order(client: Client, photo: Path) -> None:
    first, second = client.process_many([b"nonsense", photo], "enhance", format="png")
    assert isinstance(first, ServiceError)
    assert (first.status, first.kind) == (415, "not-an-image")
    assert not isinstance(second, ServiceError)
    assert same_pixels(second.image, client.enhance(photo, format="png").image)


def test_faces_models_and_health(client: Client, photo: Path) -> None:
    assert len(client.detect(photo)["faces"]) == 1
    assert "mask_png" in client.parse(photo)["faces"][0]
    assert {model["use"] for model in client.models()} >= {"enhance", "detect", "parse"}
    assert client.health()["status"] == "ok"


def test_a_job(client: Client, running: Running, photo: Path) -> None:
    running.service.go.clear()
    try:
        job = client.submit(photo, "enhance", format="png")
        assert job.status == "queued"
        with pytest.raises(TimeoutError, match="after 0 s"):
            client.wait(job.id, timeout=0)
        with pytest.raises(ServiceError) as caught:
            client.result(job.id)
        assert (caught.value.status, caught.value.kind) == (409, "job-running")
        other = client.submit([photo, b"nonsense"], "enhance")
        client.cancel(other.id)
        assert client.job(other.id).status == "cancelled"
    finally:
        running.service.go.set()
    assert client.wait(job.id, timeout=20, pause_s=0.02).status == "done"
    (done,) = client.result(job.id)
    assert not isinstance(done, ServiceError)
    assert same_pixels(done.image, client.enhance(photo, format="png").image)
    client.cancel(job.id)
    with pytest.raises(ServiceError, match="404 no-job"):
        client.job(job.id)


def test_problems_are_raised(client: Client, running: Running, photo: Path) -> None:
    with pytest.raises(ServiceError, match="known steps: enhance") as caught:
        client.process(photo, "beautify")
    assert (caught.value.status, caught.value.kind) == (400, "unknown-step")
    with Client(running.url) as stranger, pytest.raises(ServiceError) as caught:
        stranger.models()
    assert (caught.value.status, caught.value.kind) == (401, "unauthorized")


def test_a_busy_service_is_asked_again_after_the_time_it_names(client: Client, running: Running, photo: Path) -> None:
    running.service.go.clear()
    blocking = threading.Thread(target=client.process_many, args=([photo] * 3, "enhance"))
    blocking.start()
    try:
        while running.service.waiting < 3:
            time.sleep(0.01)
        with Client(running.url, KEY, retries=0) as impatient, pytest.raises(ServiceError) as caught:
            impatient.enhance(photo)
        assert (caught.value.status, caught.value.kind, caught.value.retry_after) == (503, "overloaded", 1)
        threading.Timer(0.5, running.service.go.set).start()
        started = time.monotonic()
        assert client.enhance(photo).report["changed"] == 1
        assert time.monotonic() - started >= 1
    finally:
        running.service.go.set()
        blocking.join()


class Loses(BaseHTTPRequestHandler):
    """A proxy in front of a process that goes away: what it says, request for request."""

    answers: ClassVar[list[tuple[int, str, bytes]]] = []

    def do_GET(self) -> None:
        status, media_type, body = self.answers.pop(0)
        if not status:
            self.close_connection = True  # nothing comes back
            return
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_request_that_was_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    lost, answered = (0, "", b""), (200, "application/json", b'{"models": []}')
    proxy = (502, "text/html", b"Bad Gateway")
    fault = (500, "application/problem+json", b'{"status": 500, "type": "urn:rayface:problem:internal"}')
    server = HTTPServer(("127.0.0.1", 0), Loses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}", retries=2) as client:
            Loses.answers = [lost, proxy, answered]
            assert client.models() == []
            Loses.answers = [lost, lost, proxy, answered]
            with pytest.raises(ServiceError, match="502 : Bad Gateway"):
                client.models()
            Loses.answers = [lost, lost, lost, answered]
            with pytest.raises(httpx.RemoteProtocolError):
                client.models()
            Loses.answers = [fault, answered]
            with pytest.raises(ServiceError, match="500 internal"):
                client.models()
            assert Loses.answers == [answered], "its own faults are the service's answer"
    finally:
        server.shutdown()
        server.server_close()


def test_without_httpx_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from rayface.errors import RayfaceError

    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(RayfaceError, match=r"pip install 'rayface\[client\]'"):
        Client("http://localhost")
