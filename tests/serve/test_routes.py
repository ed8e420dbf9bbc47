"""The HTTP interface where it is easier to see without a cluster: what goes wrong inside."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from rayface.errors import RayfaceError
from rayface.work import Params
from serve.gate import Gate
from serve.graph import OneReplica
from serve.ingress import Ingress
from serve.problems import Overloaded
from serve.routes import Service, create_app
from serve.settings import Settings


class Failing:
    """A service that raises what it is given."""

    def __init__(self, error: Exception) -> None:
        self.settings = Settings(max_in_flight=1)
        self.error = error

    async def process(
        self, data: bytes, steps: list[str], params: Params, format: str, quality: int
    ) -> tuple[bytes, dict[str, Any]]:
        raise self.error

    async def detect(self, data: bytes) -> dict[str, Any]:
        raise self.error

    parse = detect_swap = detect

    async def keep_report(self, identifier: str, report: dict[str, Any]) -> None:
        raise self.error

    async def report(self, identifier: str) -> dict[str, Any] | None:
        raise self.error

    async def models(self) -> list[dict[str, Any]]:
        raise self.error

    async def health(self) -> dict[str, Any]:
        return {"status": "degraded", "deployments": {"parser": "UNHEALTHY"}}


def call(service: Service, method: str, paths: list[str]) -> list[httpx.Response]:
    """The answers of one app over `service` to these requests, one after the other."""

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.request(method, path, content=b"x") for path in paths]

    return asyncio.run(run())


class Telling(Failing):
    """A service that answers with what it was asked."""

    def __init__(self) -> None:
        super().__init__(RuntimeError())
        self.settings = Settings(steps=("enhance", "upscale"))

    async def process(
        self, data: bytes, steps: list[str], params: Params, format: str, quality: int
    ) -> tuple[bytes, dict[str, Any]]:
        raise RayfaceError(f"{steps} {params.strength} {params.faces} {params.scale}{params.style}")


def test_parameters_of_the_url_arrive() -> None:
    asked = ["steps=upscale&scale=4", "steps=enhance,+upscale&strength=0.5&faces=largest", "steps=upscale&scale=3"]
    asked += ["steps=enhance&style=full", "steps=enhance&style=mullet"]
    answers = call(Telling(), "POST", [f"/v1/process?{query}" for query in asked])
    details = [answer.json()["detail"] for answer in answers]
    assert details[0] == "['upscale'] 1.0 all 4"
    assert details[1] == "['enhance', 'upscale'] 0.5 largest 2"
    assert "query.scale" in details[2]
    assert details[3] == "['enhance'] 1.0 all 2full"
    assert "query.style" in details[4]
    assert answers[2].status_code == answers[4].status_code == 422


@pytest.mark.parametrize("path", ["/v1/enhance", "/v1/detect", "/v1/parse", "/v1/detect-swap"])
def test_an_unforeseen_error_is_a_problem_that_tells_nothing(path: str) -> None:
    # More often than max_in_flight: an error must leave the gate too.
    for answer in call(Failing(RuntimeError("a secret")), "POST", [path] * 3):
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["instance"] == "urn:rayface:request:" + answer.headers["x-request-id"]
        assert "secret" not in answer.text


def test_a_slow_upload_is_given_up_and_leaves_room_for_others() -> None:
    service = Failing(RayfaceError("reached"))
    service.settings = Settings(max_in_flight=1, timeout_s=0.05)
    app = create_app(service)

    async def post(body: AsyncIterator[bytes]) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/enhance", content=body)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)

    async def quick() -> AsyncIterator[bytes]:
        yield b"x"

    late, next_one = asyncio.run(post(slow())), asyncio.run(post(quick()))
    assert (late.status_code, late.json()["type"]) == (408, "urn:rayface:problem:slow-upload")
    assert next_one.json()["detail"] == "reached"


def test_a_rayface_error_keeps_its_status_and_kind() -> None:
    error = RayfaceError("the disk is full", status=507, kind="storage")
    (answer,) = call(Failing(error), "POST", ["/v1/enhance"])
    assert (answer.status_code, answer.json()["type"]) == (507, "urn:rayface:problem:storage")
    assert answer.json()["title"] == "Insufficient Storage"
    assert answer.json()["detail"] == "the disk is full"


def test_overload_says_when_to_come_back() -> None:
    (answer,) = call(Failing(Overloaded(7)), "POST", ["/v1/enhance"])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["type"] == "urn:rayface:problem:overloaded"


def test_degraded_health_is_503() -> None:
    (answer,) = call(Failing(RuntimeError()), "GET", ["/healthz"])
    assert (answer.status_code, answer.json()["status"]) == (503, "degraded")


def test_gate_lets_in_as_many_as_leave() -> None:
    gate = Gate(limit=4, retry_after=3)
    with gate.request():
        with gate.request() as cover:
            cover(3)
            cover(2)  # has them already
            with pytest.raises(Overloaded, match="again in 3 s"), gate.request():
                pass
            with pytest.raises(Overloaded):
                cover(4)
        with gate.request() as cover:
            cover(3)


def ingress(timeout_s: float = 60.0) -> Ingress:
    return Ingress(Settings(timeout_s=timeout_s), OneReplica(None, finds_faces=True), None)


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/parse", "/v1/detect-swap"])
def test_a_service_of_photo_steps_serves_no_faces(path: str) -> None:
    photos_only = Ingress(Settings(steps=("upscale",)), OneReplica(None, finds_faces=False), None)
    (answer,) = call(photos_only, "POST", [path])
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:rayface:problem:not-served")
    assert "runs only upscale" in answer.json()["detail"]
    assert "for example enhance" in answer.json()["detail"]


def test_a_service_without_a_model_tells_no_swaps() -> None:
    without = Ingress(Settings(), OneReplica(None, finds_faces=True), None)
    (answer,) = call(without, "POST", ["/v1/detect-swap"])
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:rayface:problem:not-served")
    assert "rayface train swap_detection" in answer.json()["detail"]


def test_what_takes_too_long_is_cancelled_and_504() -> None:
    async def run() -> list[bool]:
        chain = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
        with pytest.raises(RayfaceError, match=r"not done after 0\.05 s") as caught:
            await ingress(0.05)._result(lambda: chain)
        assert (caught.value.status, caught.value.kind) == (504, "timeout")
        await asyncio.sleep(0)
        return [task.cancelled() for task in chain]

    assert asyncio.run(run()) == [True] * 3


def test_back_pressure_of_a_stage_is_overload() -> None:
    from ray.serve.exceptions import BackPressureError

    async def refuse() -> None:
        raise BackPressureError(5, 4)

    async def run() -> None:
        await ingress()._result(lambda: [asyncio.create_task(refuse())])

    with pytest.raises(Overloaded, match="busy"):
        asyncio.run(run())


def test_reports_and_jobs_that_cannot_be_asked_for_are_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that holds them is on its way up."""

    async def run() -> None:
        never = SimpleNamespace(remote=lambda *_: asyncio.create_task(asyncio.sleep(60)))
        reports = SimpleNamespace(get=never, job=never)
        asked = Ingress(Settings(), OneReplica(None, finds_faces=True), reports)
        with pytest.raises(Overloaded):
            await asked.report("id")
        with pytest.raises(Overloaded):
            await asked.job("owner", "id")

    monkeypatch.setattr("serve.ingress.MEMORY_SECONDS", 0.05)
    asyncio.run(run())


@pytest.mark.ray
def test_errors_of_other_processes_come_through_as_what_they_were(ray_cluster: None) -> None:
    """A RayfaceError raised two tasks away, as when the step after a failed stage gets its result."""
    import ray

    @ray.remote(num_cpus=0)
    def fail(kind: str) -> None:
        if kind == "rayface":
            raise RayfaceError("no such face", status=422, kind="no-face")
        raise ValueError("internal")

    @ray.remote(num_cpus=0)
    def after(value: object) -> object:
        return value

    async def result(kind: str) -> object:
        async def wait() -> object:
            return await after.remote(fail.remote(kind))

        return await ingress()._result(lambda: [asyncio.create_task(wait())])

    with pytest.raises(RayfaceError, match="no such face") as caught:
        asyncio.run(result("rayface"))
    assert (type(caught.value), caught.value.status, caught.value.kind) == (RayfaceError, 422, "no-face")
    with pytest.raises(ray.exceptions.RayTaskError, match="internal"):
        asyncio.run(result("other"))


def test_signing_that_hangs_is_a_503_and_holds_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-stamp authority that takes the call and never answers."""
    import serve.ingress as module

    ingress, hung = module.Ingress(Settings(), OneReplica(None, finds_faces=True), None), threading.Event()
    monkeypatch.setattr(module, "SIGNING_SECONDS", 0.2)
    monkeypatch.setattr(module, "signed", lambda *_: hung.wait(20))

    async def run() -> float:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))  # a replica has five
        waiting = [asyncio.create_task(ingress._signed(b"", "png", {}, b"")) for _ in range(12)]
        await asyncio.sleep(0.01)
        started = time.perf_counter()
        await asyncio.to_thread(lambda: None)  # as health is told
        told = time.perf_counter() - started
        for task in waiting:
            with pytest.raises(RayfaceError, match="was not signed within") as caught:
                await task
            assert (caught.value.status, caught.value.kind) == (503, "not-signed")
        hung.set()
        return told

    assert asyncio.run(run()) < 0.15
