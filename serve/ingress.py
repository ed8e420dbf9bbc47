"""The deployment in front: it decodes photos and sends them through the others."""

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve

from rayface.errors import RayfaceError
from rayface.guard import STAGE as GUARD
from rayface.pipeline import face_steps, photo_steps
from rayface.work import Params, Photo, Work
from serve import problems
from serve.answers import Json
from serve.jobs import JobRequest, JobResult
from serve.models import parse_shares
from serve.routes import create_app
from serve.settings import Settings
from serve.upload import check_photo

TRIES_AGAIN = 3  # of a request whose replica died
SECONDS_BETWEEN = 0.25


class Ingress:
    """Decodes photos and chains the deployments; the arrays between them never pass through here."""

    def __init__(
        self,
        settings: Settings,
        detector: Any,
        steps: Mapping[str, Any],
        parser: Any,
        fusion: Any,
        reports: Any,
        guard: Any = None,
    ) -> None:
        self.settings = settings
        self._detector, self._steps, self._parser = detector, dict(steps), parser
        self._fusion, self._reports, self._guard = fusion, reports, guard

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self)

    async def process(
        self,
        data: bytes,
        steps: list[str],
        params: Params,
        format: str,
        quality: int,
        timeout_s: float | None = None,
    ) -> tuple[bytes, Json]:
        started = time.perf_counter()
        photo = await asyncio.to_thread(self._decode, data)
        milliseconds = round(1000 * (time.perf_counter() - started), 2)
        image, report = await self._result(lambda: self._chain(photo, steps, params, format, quality), timeout_s)
        report["timings_ms"] = {"decode": milliseconds, **report["timings_ms"]}
        return image, report

    async def process_job(self, request: JobRequest, photo: bytes) -> tuple[bytes, Json]:
        """One photo of a job; called by `Reports`."""
        check_photo(photo, self.settings.limits)
        params, timeout = Params(**request.params), self.settings.job_timeout_s
        return await self.process(photo, request.steps, params, request.format, request.quality, timeout)

    def _chain(self, photo: Any, steps: list[str], params: Params, format: str, quality: int) -> list[Any]:
        """The calls of a request, each waiting for those before; the order is that of `Pipeline.process`."""
        chain: list[Any] = []
        for name in (name for name in steps if name in photo_steps()):
            photo = self._steps[name].remote(photo, params)
            chain.append(photo)
        work = None
        if about_faces := face_steps(steps):
            chain.append(self._detector.remote(photo, params))
            for name in about_faces:
                chain.append(self._steps[name].remote(chain[-1], params))
            if self._guard is not None:
                chain.append(self._guard.remote(chain[-1]))
            work = self._parser.remote(chain[-1])
            chain.append(work)
        return [*chain, self._fusion.remote(photo, work, steps, format, quality)]

    def _check_faces_served(self) -> None:
        if self._detector is None:
            raise RayfaceError(
                f"This service runs only {', '.join(self._steps)}, on whole photos, and looks for no faces; for that, "
                "its settings.steps must name a step about faces, for example enhance.",
                status=404,
                kind="not-served",
            )

    async def detect(self, data: bytes) -> Json:
        self._check_faces_served()
        photo = await asyncio.to_thread(self._decode, data)
        work = await self._result(lambda: [self._detector.remote(photo, Params())])
        return _faces(work)

    async def parse(self, data: bytes) -> Json:
        self._check_faces_served()
        photo = await asyncio.to_thread(self._decode, data)

        def chain() -> list[Any]:
            detected = self._detector.remote(photo, Params())
            return [detected, self._parser.remote(detected, True)]

        work = await self._result(chain)
        return await asyncio.to_thread(_parsed, work)

    async def keep_report(self, identifier: str, report: Json) -> None:
        await self._reports.put.remote(identifier, report)

    async def report(self, identifier: str) -> Json | None:
        return await self._reports.get.remote(identifier)

    async def submit(self, request: JobRequest) -> Json:
        return await self._result(lambda: [self._reports.submit.remote(request)], again=0)

    async def job(self, owner: str, identifier: str) -> Json | None:
        return await self._reports.job.remote(owner, identifier)

    async def job_result(self, owner: str, identifier: str) -> JobResult | None:
        return await self._reports.job_result.remote(owner, identifier)

    async def cancel_job(self, owner: str, identifier: str) -> bool:
        return await self._reports.cancel_job.remote(owner, identifier)

    async def models(self) -> list[Json]:
        """Of what the deployments serve now: it may be changed while they serve."""
        stages = {"detect": self._detector, **self._steps, "parse": self._parser, GUARD: self._guard}
        stages = {use: handle for use, handle in stages.items() if handle is not None}
        calls = [partial(_only, handle.serving) for handle in stages.values()]
        told = await asyncio.gather(*(self._result(call) for call in calls))
        serving = dict(zip(stages, told, strict=True))
        models = await asyncio.to_thread(model_list, self.settings, {use: at["model"] for use, at in serving.items()})
        return [model | ({"refused": why} if (why := serving[model["use"]]["refused"]) else {}) for model in models]

    async def health(self) -> Json:
        application = serve.get_replica_context().app_name
        status = await asyncio.to_thread(serve.status)
        found = status.applications[application].deployments
        states = {name: str(item.status.value) for name, item in found.items()}
        good = all(state in ("HEALTHY", "UPSCALING", "DOWNSCALING") for state in states.values())
        return {"status": "ok" if good else "degraded", "deployments": states}

    def _decode(self, data: bytes) -> Any:
        """The `Photo` of `data` in the object store: the other deployments map it there."""
        import ray

        from rayface.imaging.codec import decode

        return ray.put(Photo.of(decode(data, self.settings.limits)))

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
            raise problems.Overloaded(self.settings.retry_after_s) from error
        except Exception as error:
            if problems.died(error):
                raise problems.Overloaded(self.settings.retry_after_s) from error
            cause = problems.cause(error)
            if cause is None:
                raise
            raise cause from error


def _only(method: Any) -> list[Any]:
    """A chain of one call without arguments."""
    return [method.remote()]


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


def model_list(settings: Settings, refs: Mapping[str, str]) -> list[Json]:
    """What /v1/models says of each model in use; `refs`: see `models.parse_shares`, whose shares it gives."""
    from rayface.store import open_store

    store = open_store(settings.store)
    keys = ("name", "version", "system", "licence", "terms", "commercial_use", "sha256", "dtype", "created", "metrics")
    models = []
    for use, text in refs.items():
        for ref, share in parse_shares(text).items():
            info = store.info(ref)
            models.append({"use": use, "share": share, **{key: info[key] for key in keys if key in info}})
    return models
