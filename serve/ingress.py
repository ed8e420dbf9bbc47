"""The deployment in front: it takes requests, and sends their photos through the others."""

import asyncio
import base64
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve

from rayface import metrics
from rayface.credentials import Signer
from rayface.errors import RayfaceError
from rayface.stages import donor_of
from rayface.work import Params, Work
from serve import measured, problems
from serve.answers import Json
from serve.graph import Graph
from serve.jobs import JobRequest, JobResult
from serve.models import parse_shares
from serve.routes import create_app
from serve.settings import Settings
from serve.upload import check_photo

TRIES_AGAIN = 3  # of a request whose replica died
SECONDS_BETWEEN = 0.25
SIGNING_SECONDS, SIGNING_THREADS = 15.0, 4
REPORT_SECONDS = 0.1  # within which a report is kept once the photo is answered
MEMORY_SECONDS = 10.0  # for an answer of the process that holds reports and jobs; it may be on its way up


class Ingress:
    """Sends photos over the `Graph`; the arrays between its deployments never pass through here."""

    def __init__(self, settings: Settings, graph: Graph, reports: Any) -> None:
        self.settings = settings
        self._graph, self._reports = graph, reports
        self._signer = Signer(settings.credentials)
        metrics.CERTIFICATE_EXPIRES.record(self._signer.runs_out.timestamp())
        # Of its own: a time-stamp authority that does not answer must not hold the threads that health is told by
        self._signing = ThreadPoolExecutor(SIGNING_THREADS, "signing")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self)

    async def process(
        self,
        data: bytes,
        steps: list[str],
        params: Params,
        format: str,
        quality: int,
    ) -> tuple[bytes, Json]:
        return await self._processed("process", data, steps, params, format, quality, self.settings.timeout_s)

    async def process_job(self, request: JobRequest, photo: bytes) -> tuple[bytes, Json]:
        """One photo of a job; called by `Reports`."""
        check_photo(photo, self.settings.limits)
        params, timeout = Params(**request.params), self.settings.job_timeout_s
        return await self._processed("job", photo, request.steps, params, request.format, request.quality, timeout)

    async def _processed(
        self, way: str, data: bytes, steps: list[str], params: Params, format: str, quality: int, timeout_s: float
    ) -> tuple[bytes, Json]:
        with measured.photo(way):
            photo = await self._taken(data)
            call = partial(self._graph.process, photo, steps, params, format, quality)
            picture, report = await self._result(call, timeout_s)
            picture, report = await self._signed(picture, format, report, data)
        measured.report(report, params)
        return picture, report

    async def _signed(self, picture: bytes, format: str, report: Json, original: bytes) -> tuple[bytes, Json]:
        work = partial(signed, self._signer, picture, format, report, original)
        try:
            async with asyncio.timeout(SIGNING_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._signing, work)
        except TimeoutError:
            raise RayfaceError(
                f"The result was not signed within {SIGNING_SECONDS:g} s: the time-stamp authority "
                f"{self.settings.credentials.timestamps or '(none is set)'} does not answer, or the service is busy.",
                status=503,
                kind="not-signed",
            ) from None

    def _check_faces_served(self) -> None:
        if not self._graph.finds_faces:
            raise RayfaceError(
                f"This service runs only {', '.join(self.settings.steps)}, on whole photos, and looks for no faces; "
                "for that, its settings.steps must name a step about faces, for example enhance.",
                status=404,
                kind="not-served",
            )

    async def detect(self, data: bytes) -> Json:
        self._check_faces_served()
        return _faces(await self._looked_at("detect", data, self._graph.detect))

    async def donor(self, data: bytes) -> np.ndarray:
        return donor_of(await self._looked_at("detect", data, self._graph.detect))

    async def parse(self, data: bytes) -> Json:
        self._check_faces_served()
        work = await self._looked_at("parse", data, self._graph.parse)
        return await asyncio.to_thread(_parsed, work)

    async def detect_swap(self, data: bytes) -> Json:
        self._check_faces_served()
        if not self._graph.finds_swaps:
            raise RayfaceError(
                "This service does not tell swapped faces: its model store has no model of swap_detection that may be "
                "used here. Train one with `rayface train swap_detection`, or name one in settings.models as "
                "detect_swap.",
                status=404,
                kind="not-served",
            )
        return swaps_told(await self._looked_at("detect_swap", data, self._graph.detect_swap))

    async def _looked_at(self, way: str, data: bytes, calls: Callable[[Any], Sequence[Any]]) -> Work:
        """The faces of a photo that is not changed."""
        with measured.photo(way):
            photo = await self._taken(data)
            work: Work = await self._result(lambda: calls(photo))
        metrics.FACES_FOUND.record(len(work.faces) + len(work.others))
        return work

    async def keep_report(self, identifier: str, report: Json) -> None:
        self._reports.put.remote(identifier, report)  # on its way when the answer goes; no answer waits for it

    async def report(self, identifier: str) -> Json | None:
        report: Json | None = await self._remembered("get", identifier)
        if report is None:  # the answer may have overtaken it
            await asyncio.sleep(REPORT_SECONDS)
            report = await self._remembered("get", identifier)
        return report

    async def submit(self, request: JobRequest) -> Json:
        return await self._result(lambda: [self._reports.submit.remote(request)], again=0)

    async def job(self, owner: str, identifier: str) -> Json | None:
        return await self._remembered("job", owner, identifier)

    async def job_result(self, owner: str, identifier: str) -> JobResult | None:
        return await self._remembered("job_result", owner, identifier)

    async def cancel_job(self, owner: str, identifier: str) -> bool:
        return await self._remembered("cancel_job", owner, identifier)

    async def _remembered(self, method: str, *args: str) -> Any:
        """What the process with the reports and jobs says; 503 where it does not within seconds."""
        try:
            return await self._result(lambda: [getattr(self._reports, method).remote(*args)], MEMORY_SECONDS)
        except RayfaceError as error:
            if error.kind == "timeout":
                raise problems.Overloaded(self.settings.retry_after_s) from error
            raise

    async def models(self) -> list[Json]:
        """Of what the deployments serve now: it may be changed while they serve."""
        serving = await self._graph.serving(self._result)
        models = await asyncio.to_thread(model_list, self.settings, {use: at["model"] for use, at in serving.items()})
        return [model | ({"refused": why} if (why := serving[model["use"]]["refused"]) else {}) for model in models]

    async def health(self) -> Json:
        application = serve.get_replica_context().app_name
        status = await asyncio.to_thread(serve.status)
        found = status.applications[application].deployments
        states = {name: str(item.status.value) for name, item in found.items()}
        good = all(state in ("HEALTHY", "UPSCALING", "DOWNSCALING") for state in states.values())
        return {"status": "ok" if good else "degraded", "deployments": states}

    async def _taken(self, data: bytes) -> Any:
        return await self._graph.taken(data, self.settings.limits)

    async def _result(
        self, chain: Callable[[], Sequence[Any]], timeout_s: float | None = None, again: int = TRIES_AGAIN
    ) -> Any:
        """The last response of the calls that `chain` makes; what went wrong on the way as RayfaceError.

        Where a replica died under them, all are made again, `again` times at most: they leave nothing behind.
        """
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        timeout_s = timeout_s or self.settings.timeout_s
        responses: Sequence[Any] = ()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    responses = chain()
                    try:
                        return await responses[-1]
                    except Exception as error:
                        if not (again and problems.died(error)):
                            raise
                        again -= 1
                        await asyncio.sleep(SECONDS_BETWEEN)  # until the router knows
        except TimeoutError:
            for response in responses:
                response.cancel()
            raise RayfaceError(
                f"The photo was not done after {timeout_s:g} s; send a smaller one, or try "
                "again when the service is less busy.",
                status=504,
                kind="timeout",
            ) from None
        except (BackPressureError, DeploymentUnavailableError) as error:
            metrics.REFUSED.record(1, reason="replicas")
            raise problems.Overloaded(self.settings.retry_after_s) from error
        except Exception as error:
            if problems.died(error):
                metrics.REFUSED.record(1, reason="died")
                raise problems.Overloaded(self.settings.retry_after_s) from error
            cause = problems.cause(error)
            if cause is None:
                raise
            raise cause from error


def signed(signer: Signer, picture: bytes, format: str, report: Json, original: bytes) -> tuple[bytes, Json]:
    """The picture with its content credentials, and who signed it in its report; see `Signer.sign`."""
    started = time.perf_counter()
    picture = signer.sign(picture, format, report, original)
    took = round(1000 * (time.perf_counter() - started), 2)
    return picture, {**report, "signer": signer.name, "timings_ms": {**report["timings_ms"], "sign": took}}


def _faces(work: Work) -> Json:
    from dataclasses import asdict

    keep = ("box", "landmarks", "score", "size")
    faces = [{key: asdict(face)[key] for key in keep} for face in [*work.faces, *work.others]]
    return {"width": work.width, "height": work.height, "models": work.models, "faces": faces}


def _parsed(work: Work) -> Json:
    import torch

    from rayface.imaging.codec import encode_mask
    from rayface.records import PARSING_CLASSES

    answer = _faces(work)
    masks = work.masks if work.masks is not None else np.zeros((0, 1, 1), np.uint8)
    for face, mask, matrix in zip(answer["faces"], masks, work.matrices, strict=False):
        face["mask_png"] = base64.b64encode(encode_mask(torch.from_numpy(mask.copy()))).decode()
        face["matrix"] = matrix.tolist()
    return {**answer, "crop_size": work.crops.shape[-1], "classes": list(PARSING_CLASSES)}


def swaps_told(work: Work) -> Json:
    """What /v1/detect-swap says of a judged work; faces beyond `max_faces` are not judged."""
    from rayface.evaluation.swap_detection import THRESHOLD

    answer = _faces(work)
    for face, report in zip(answer["faces"], work.faces, strict=False):
        face["swapped"] = report.swapped
    return {**answer, "threshold": THRESHOLD}


def model_list(settings: Settings, refs: Mapping[str, str]) -> list[Json]:
    """What /v1/models says of each model in use; `refs`: see `models.parse_shares`, whose shares it gives."""
    from rayface.store import open_store

    store = open_store(settings.store)
    keys = ("name", "version", "system", "licence", "terms", "commercial_use", "sha256", "dtype", "created", "metrics")
    models = []
    for use, text in refs.items():
        for ref, share in parse_shares(text).items():
            info = store.info(ref)
            told = {key: in_json(info[key]) for key in keys if key in info}
            if use == "edit_attributes":
                told["attributes"] = list(info["config"]["attributes"])
            models.append({"use": use, "share": share, **told})
    return models


def in_json(value: Any) -> Any:
    """The same with null for every number that JSON has no word for: metrics may hold a mean over no faces, NaN."""
    if isinstance(value, Mapping):
        return {key: in_json(part) for key, part in value.items()}
    if isinstance(value, list):
        return [in_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
