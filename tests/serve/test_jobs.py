"""Jobs, over the pipeline in this process."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rayface.imaging.codec import encode
from rayface.store import ModelStore
from serve.answers import Json
from serve.jobs import JobLimits, JobQueue, JobRequest
from serve.settings import Settings
from tests.scenes import same_pixels, scene
from tests.serve.in_process import Held, InProcess, client_of
from tests.serve.parts import parts_of

ASYNC = {"prefer": "respond-async"}


def settings(store: ModelStore, **given: Any) -> Settings:
    return Settings(store=store.uri, steps=("enhance",), **given)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def finished(client: httpx.AsyncClient, where: str) -> Json:
    async with asyncio.timeout(20):
        while (status := (await client.get(where)).json())["finished"] is None:
            await asyncio.sleep(0.01)
    return status


def test_a_job_gives_what_the_request_would_have(tiny_store: ModelStore, face_png: bytes) -> None:
    async def run() -> None:
        service = Held(tiny_store, settings(tiny_store))
        async with client_of(service) as client:
            url = "/v1/process?steps=enhance&format=png&strength=0.5"
            taken = await client.post(url, content=face_png, headers={**ASYNC, "x-request-id": "mine"})
            assert (taken.status_code, taken.headers["preference-applied"]) == (202, "respond-async")
            where = taken.headers["location"]
            assert where == f"/v1/jobs/{taken.json()['id']}"
            assert len(taken.json()["id"]) >= 32
            assert taken.json()["status"] == "queued"
            await until(lambda: service.waiting == 1)
            running = (await client.get(where)).json()
            assert (running["status"], running["progress"]) == ("running", 0)
            early = await client.get(where + "/result")
            assert (early.status_code, early.json()["type"]) == (409, "urn:rayface:problem:job-running")

            service.go.set()
            status = await finished(client, where)
            assert (status["status"], status["progress"]) == ("done", 1)
            assert status["created"] <= status["started"] <= status["finished"] < status["expires"]
            result = await client.get(where + "/result")
            assert result.status_code == 200
            at_once = await client.post(url, content=face_png)
            assert same_pixels(result.content, at_once.content)
            assert result.headers["content-type"] == "image/png"
            report = status["photos"][0]["report"]
            assert (report["request_id"], report["changed"]) == ("mine", 1)
            assert json.loads(result.headers["x-rayface-summary"])["changed"] == 1

            assert (await client.delete(where)).status_code == 204
            for gone in (await client.get(where), await client.get(where + "/result"), await client.delete(where)):
                assert (gone.status_code, gone.json()["type"]) == (404, "urn:rayface:problem:no-job")

    asyncio.run(run())


def test_a_cancelled_job_stops_its_work(tiny_store: ModelStore, face_png: bytes) -> None:
    async def run() -> None:
        service = Held(tiny_store, settings(tiny_store, max_running_jobs=1))
        async with client_of(service) as client:
            first, second = [
                (await client.post("/v1/enhance", content=face_png, headers=ASYNC)).headers["location"] for _ in "12"
            ]
            await until(lambda: service.waiting == 1)
            assert (await client.get(second)).json()["status"] == "queued"
            assert (await client.delete(first)).status_code == 204
            await until(lambda: service.cancelled == 1)
            status = (await client.get(first)).json()
            assert (status["status"], status["photos"]) == ("cancelled", [{}])
            result = await client.get(first + "/result")
            assert (result.status_code, result.json()["type"]) == (409, "urn:rayface:problem:job-cancelled")
            service.go.set()
            assert (await finished(client, second))["status"] == "done", "the place of the first is free again"

    asyncio.run(run())


def test_a_job_of_several_photos_and_one_of_none_that_is_good(tiny_store: ModelStore, face_png: bytes) -> None:
    async def run() -> None:
        service = InProcess(tiny_store, settings(tiny_store))
        async with client_of(service) as client:
            photos: Any = [("image", ("a", face_png)), ("image", ("b", b"nonsense"))]
            both = await client.post("/v1/enhance?format=png", files=photos, headers=ASYNC)
            bad = await client.post("/v1/enhance", content=b"nonsense", headers=ASYNC)
            status = await finished(client, both.headers["location"])
            assert status["status"] == "done"
            assert [list(photo) for photo in status["photos"]] == [["report"], ["problem"]]
            parts = parts_of(await client.get(both.headers["location"] + "/result"))
            assert [name for name, _, _ in parts] == ["image-0", "report-0", "problem-1"]
            assert json.loads(parts[1][2]) == status["photos"][0]["report"]

            status = await finished(client, bad.headers["location"])
            assert status["status"] == "failed"
            answer = await client.get(bad.headers["location"] + "/result")
            assert (answer.status_code, answer.headers["content-type"]) == (415, "application/problem+json")
            assert answer.json() == status["photos"][0]["problem"]

    asyncio.run(run())


def test_what_is_wrong_with_the_request_is_said_at_once(tiny_store: ModelStore, face_png: bytes) -> None:
    async def run() -> None:
        async with client_of(InProcess(tiny_store, settings(tiny_store))) as client:
            for path, body, status in (
                ("/v1/process?steps=beautify", face_png, 400),
                ("/v1/enhance?strength=3", face_png, 422),
                ("/v1/enhance", b"", 400),
            ):
                assert (await client.post(path, content=body, headers=ASYNC)).status_code == status

    asyncio.run(run())


def job(*photos: bytes, owner: str = "") -> JobRequest:
    return JobRequest("r", owner, photos, ["enhance"], {}, "png", 90, False)


async def echo(request: JobRequest, photo: bytes) -> tuple[bytes, Json]:
    """An image three times as large as the photo."""
    return 3 * photo, {"timings_ms": {}}


def limits(**given: Any) -> JobLimits:
    return JobLimits(**{"running": 2, "count": 3, "bytes": 1000, "seconds": 60, "retry_after": 7, **given})


def test_the_number_of_jobs_and_their_bytes_are_bounded() -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def held(request: JobRequest, photo: bytes) -> tuple[bytes, Json]:
            await go.wait()
            return await echo(request, photo)

        queue = JobQueue(held, limits())
        with pytest.raises(Exception, match="1001 bytes; jobs may hold 1000") as caught:
            queue.submit(job(bytes(1001)))
        assert getattr(caught.value, "status", 0) == 413
        small = [queue.submit(job(bytes(10)))["id"] for _ in range(2)]
        with pytest.raises(Exception, match="again in 7 s"):
            queue.submit(job(bytes(981)))
        small.append(queue.submit(job(bytes(10)))["id"])
        with pytest.raises(Exception, match="again in 7 s"):
            queue.submit(job(bytes(10)))
        go.set()
        await until(lambda: all((queue.status("", name) or {})["status"] == "done" for name in small))
        # Finished jobs make room, the oldest first: two must go for 950 bytes beside results of 30 each.
        queue.submit(job(bytes(950)))
        assert [queue.status("", name) is not None for name in small] == [False, False, True]

    asyncio.run(run())


def test_a_result_that_does_not_fit_is_a_problem() -> None:
    async def run() -> None:
        queue = JobQueue(echo, limits())
        name = queue.submit(job(bytes(400)))["id"]
        await until(lambda: (queue.status("", name) or {})["finished"] is not None)
        status = queue.status("", name)
        assert status is not None
        assert (status["status"], status["photos"][0]["problem"]["status"]) == ("failed", 507)

    asyncio.run(run())


def test_finished_jobs_expire_by_themselves() -> None:
    async def run() -> None:
        queue = JobQueue(echo, limits(seconds=0.05))
        name = queue.submit(job(b"x"))["id"]
        await until(lambda: queue.status("", name) is None)

    asyncio.run(run())


def test_jobs_belong_to_a_key() -> None:
    async def run() -> None:
        queue = JobQueue(echo, limits())
        name = queue.submit(job(b"x", owner="ann"))["id"]
        assert queue.status("bob", name) is queue.result("bob", name) is None
        assert not queue.cancel("bob", name)
        assert queue.status("ann", name) is not None

    asyncio.run(run())


def test_a_photo_of_another_face_count_is_reported_per_photo(tiny_store: ModelStore) -> None:
    async def run() -> None:
        async with client_of(InProcess(tiny_store, settings(tiny_store))) as client:
            photos: Any = [("image", (str(count), encode(scene(0, count), "png"))) for count in (1, 2)]
            taken = await client.post("/v1/enhance", files=photos, headers=ASYNC)
            status = await finished(client, taken.headers["location"])
            reports = [photo["report"] for photo in status["photos"]]
            assert len(reports[0]["faces"]) == 1
            assert len(reports[1]["faces"]) == 2

    asyncio.run(run())


def test_the_process_that_keeps_jobs_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, serve.reports, pickle; assert not {'torch', 'ray'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)
