"""Jobs, keys, several photos and clients that go away, on a real Ray cluster, over real HTTP."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch

from rayface.imaging.codec import decode, encode
from serve.keys import digest
from tests.scenes import scene
from tests.serve.listening import start_serve
from tests.serve.parts import parts_of
from tests.tiny_models import save_tiny_models

pytestmark = pytest.mark.ray
KEY = "rf_a key"
HELD_S = 2.0  # the upscaler waits so long for a second photo
ASYNC = {"prefer": "respond-async"}


@pytest.fixture(scope="module")
def client(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a service that only upscales, two photos at a time; a single photo is held for a while."""
    from ray import serve

    from serve.app import build

    store = save_tiny_models(tmp_path_factory.mktemp("store"), ("super_resolution",))
    url = start_serve()
    args = {
        "store": store.uri,
        "steps": ["upscale"],
        "max_in_flight": 2,
        "max_running_jobs": 1,
        "max_jobs": 4,
        "photo_step": {"max_batch": 2, "batch_wait_s": HELD_S},
        "api_keys": {"tests": digest(KEY)},
    }
    serve.run(build(args), name="rayface", route_prefix="/")
    with httpx.Client(base_url=url, timeout=60, headers={"x-api-key": KEY}) as client:
        client.post("/v1/process?steps=upscale", content=png())  # the first one loads what is loaded lazily
        yield client
    serve.shutdown()


def png() -> bytes:
    return encode(scene(0), "png")


def upscaled() -> int:
    """Photos that went through the upscaler's network."""
    from ray import serve

    return serve.get_deployment_handle("stages", "rayface").counts.remote().result()["upscale"]["requests"]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited for {seconds} s"
        time.sleep(0.05)


def test_a_client_that_goes_away_stops_the_work_and_leaves_its_place(client: httpx.Client) -> None:
    before = upscaled()
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/process?steps=upscale", content=png(), timeout=httpx.Timeout(10, read=0.3))
    time.sleep(1.5 * HELD_S)
    assert upscaled() == before, "the photo of a client that went away was worked on"
    both_places: Any = [("image", (name, png())) for name in "12"]
    assert client.post("/v1/process?steps=upscale", files=both_places).status_code == 200
    assert upscaled() == before + 2


def test_several_photos_share_a_batch(client: httpx.Client) -> None:
    files: Any = [("image", ("1", png())), ("image", ("2", b"nonsense"))]
    answer = client.post("/v1/process?steps=upscale&format=png", files=files)
    parts = parts_of(answer)
    assert [name for name, _, _ in parts] == ["image-0", "report-0", "problem-1"]
    assert decode(parts[0][2]).shape == (3, 480, 640)


def test_a_job_from_its_submission_to_its_end(client: httpx.Client) -> None:
    url = "/v1/process?steps=upscale&format=png"
    taken = client.post(url, content=png(), headers=ASYNC)
    assert taken.status_code == 202, taken.text
    where = taken.headers["location"]
    until(lambda: client.get(where).json()["status"] == "running")
    assert client.get(where + "/result").status_code == 409
    until(lambda: client.get(where).json()["status"] == "done")
    result = client.get(where + "/result")
    assert torch.equal(decode(result.content), decode(client.post(url, content=png()).content))
    assert client.get(where).json()["photos"][0]["report"]["models"] == {"upscale": "super_resolution@1"}
    assert client.delete(where).status_code == 204
    assert client.get(where).status_code == 404

    bad = client.post(url, content=b"nonsense", headers=ASYNC).headers["location"]
    until(lambda: client.get(bad).json()["status"] == "failed")
    answer = client.get(bad + "/result")
    assert (answer.status_code, answer.json()["type"]) == (415, "urn:rayface:problem:not-an-image")


def test_a_cancelled_job_is_stopped_down_the_graph(client: httpx.Client) -> None:
    before = upscaled()
    where = client.post("/v1/process?steps=upscale", content=png(), headers=ASYNC).headers["location"]
    until(lambda: client.get(where).json()["status"] == "running")
    time.sleep(0.2)  # the upscaler holds it
    assert client.delete(where).status_code == 204
    time.sleep(1.5 * HELD_S)
    assert upscaled() == before
    assert client.get(where).json()["status"] == "cancelled"


def test_a_job_outlives_the_replica_that_worked_on_it(client: httpx.Client) -> None:
    import ray
    from ray.util import list_named_actors

    where = client.post("/v1/process?steps=upscale", content=png(), headers=ASYNC).headers["location"]
    until(lambda: client.get(where).json()["status"] == "running")
    time.sleep(0.3)  # the upscaler holds it
    (ingress,) = [actor["name"] for actor in list_named_actors(all_namespaces=True) if "#ingress#" in actor["name"]]
    ray.kill(ray.get_actor(ingress, namespace="serve"))

    def done() -> bool:
        try:
            answer = client.get(where, timeout=5)  # waits, or is refused, until there is a new one
        except httpx.ReadTimeout:
            return False
        return answer.status_code == 200 and answer.json()["finished"] is not None

    until(done, seconds=240)
    assert client.get(where).json()["status"] == "done"


def test_too_many_jobs_are_refused_with_a_problem(client: httpx.Client) -> None:
    """The refusal is raised in another process; it arrives as what it was."""
    refused = client.post("/v1/process?steps=upscale", content=png(), headers={**ASYNC, "x-api-key": "rf_wrong"})
    assert refused.status_code == 401
    for _ in range(20):  # far quicker than one a second is done
        refused = client.post("/v1/process?steps=upscale", content=png(), headers=ASYNC)
        if refused.status_code != 202:
            break
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:rayface:problem:overloaded")
    assert refused.headers["retry-after"] == "2"
