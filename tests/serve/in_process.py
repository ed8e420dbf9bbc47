"""The service's HTTP interface over a `Pipeline` in this process: everything real but Ray Serve."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from rayface.credentials import Signer, xmp
from rayface.errors import RayfaceError
from rayface.imaging.codec import decode, encode
from rayface.pipeline import Pipeline
from rayface.store import ModelStore
from rayface.work import Params, Photo
from serve.ingress import signed
from serve.jobs import JobQueue, JobRequest, JobResult
from serve.reports import ReportStore
from serve.routes import create_app
from serve.settings import Settings

Json = dict[str, Any]
BASE = "http://test"


class InProcess:
    """A `Service` whose stages run one after the other, in threads."""

    def __init__(self, store: ModelStore, settings: Settings) -> None:
        from serve.app import resolve_models

        self.settings = settings
        self._pipeline = Pipeline.from_store(store, settings.steps)
        self._signer = Signer(settings.credentials)
        self._refs = resolve_models(settings)
        self._reports = ReportStore(settings.report_seconds, settings.max_reports)
        self._jobs = JobQueue(self._run_job, settings.jobs)

    async def process(
        self, data: bytes, steps: list[str], params: Params, format: str, quality: int
    ) -> tuple[bytes, Json]:
        return await asyncio.to_thread(self._process, data, steps, params, format, quality)

    def _process(self, data: bytes, steps: list[str], params: Params, format: Any, quality: int) -> tuple[bytes, Json]:
        from dataclasses import asdict

        result = self._pipeline.process(decode(data, self.settings.limits), steps, params)
        report = asdict(result.report)
        return signed(self._signer, encode(result.photo, format, quality, xmp(report)), format, report, data)

    async def donor(self, data: bytes) -> Any:
        return await asyncio.to_thread(self._pipeline.donor, data)

    async def detect(self, data: bytes) -> Json:
        return await asyncio.to_thread(self._faces, data, False)

    async def parse(self, data: bytes) -> Json:
        return await asyncio.to_thread(self._faces, data, True)

    async def detect_swap(self, data: bytes) -> Json:
        return await asyncio.to_thread(self._swaps, data)

    def _swaps(self, data: bytes) -> Json:
        from rayface.pipeline import SWAPS, load_step
        from rayface.stages import detect_faces, judge_swaps
        from rayface.store import open_store
        from serve.ingress import swaps_told

        if SWAPS not in self._refs:
            raise RayfaceError("no model of swap_detection", status=404, kind="not-served")
        photo, side = Photo.of(decode(data, self.settings.limits)), self._pipeline.crop_size
        assert self._pipeline.detector is not None
        works = detect_faces(self._pipeline.detector, [photo], [Params()], self.settings.max_faces, side)
        judge = load_step(open_store(self.settings.store), self._refs[SWAPS])
        return swaps_told(*judge_swaps(judge, works))

    def _faces(self, data: bytes, parsed: bool) -> Json:
        from rayface.stages import detect_faces, parse_faces
        from serve.ingress import _faces, _parsed

        photo, side = Photo.of(decode(data, self.settings.limits)), self._pipeline.crop_size
        detector, parser = self._pipeline.detector, self._pipeline.parser
        assert detector is not None
        assert parser is not None
        works = detect_faces(detector, [photo], [Params()], self.settings.max_faces, side)
        return _parsed(*parse_faces(parser, works, [True])) if parsed else _faces(works[0])

    async def keep_report(self, identifier: str, report: Json) -> None:
        self._reports.put(identifier, report)

    async def report(self, identifier: str) -> Json | None:
        return self._reports.get(identifier)

    async def _run_job(self, job: JobRequest, photo: bytes) -> tuple[bytes, Json]:
        return await self.process(photo, job.steps, Params(**job.params), job.format, job.quality)

    async def submit(self, request: JobRequest) -> Json:
        return self._jobs.submit(request)

    async def job(self, owner: str, identifier: str) -> Json | None:
        return self._jobs.status(owner, identifier)

    async def job_result(self, owner: str, identifier: str) -> JobResult | None:
        return self._jobs.result(owner, identifier)

    async def cancel_job(self, owner: str, identifier: str) -> bool:
        return self._jobs.cancel(owner, identifier)

    async def models(self) -> list[Json]:
        from serve.ingress import model_list

        return model_list(self.settings, self._refs)

    async def health(self) -> Json:
        return {"status": "ok", "deployments": {}}


class Held(InProcess):
    """Photos wait until `go` is set."""

    def __init__(self, store: ModelStore, settings: Settings) -> None:
        super().__init__(store, settings)
        self.go = threading.Event()
        self.waiting = self.cancelled = 0

    async def process(
        self, data: bytes, steps: list[str], params: Params, format: str, quality: int
    ) -> tuple[bytes, Json]:
        self.waiting += 1
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return await super().process(data, steps, params, format, quality)


def client_of(service: Any, **options: Any) -> httpx.AsyncClient:
    """A client of the HTTP interface over `service`."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url=BASE, **options)


@contextmanager
def served(service: InProcess) -> Iterator[str]:
    """The address of the HTTP interface over `service`, on a real server in a thread."""
    import uvicorn

    config = uvicorn.Config(create_app(service), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
