"""The deployment in front: it decodes photos and sends them through the others."""

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve

from rayface.errors import RayfaceError
from rayface.pipeline import face_steps, photo_steps
from rayface.work import Params, Photo, Work
from serve import problems
from serve.answers import Json
from serve.jobs import JobRequest, JobResult
from serve.routes import create_app
from serve.settings import Settings
from serve.upload import check_photo


class Ingress:
    """Decodes photos and chains the deployments; the arrays between them never pass through here."""

    def __init__(
        self,
        settings: Settings,
        refs: Mapping[str, str],
        detector: Any,
        steps: Mapping[str, Any],
        parser: Any,
        fusion: Any,
        reports: Any,
        guard: Any = None,
    ) -> None:
        self.settings, self._refs = settings, dict(refs)
        self._detector, self._steps, self._parser = detector, dict(steps), parser
        self._fusion, self._reports, self._guard = fusion, reports, guard
        self._models: list[Json] | None = None

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
        image, report = await self._result(self._chain(photo, steps, params, format, quality), timeout_s)
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
        work = await self._result([self._detector.remote(photo, Params())])
        return _faces(work)

    async def parse(self, data: bytes) -> Json:
        self._check_faces_served()
        photo = await asyncio.to_thread(self._decode, data)
        detected = self._detector.remote(photo, Params())
        work = await self._result([detected, self._parser.remote(detected, True)])
        return await asyncio.to_thread(_parsed, work)

    async def keep_report(self, identifier: str, report: Json) -> None:
        await self._reports.put.remote(identifier, report)

    async def report(self, identifier: str) -> Json | None:
        return await self._reports.get.remote(identifier)

    async def submit(self, request: JobRequest) -> Json:
        return await self._result([self._reports.submit.remote(request)])

    async def job(self, owner: str, identifier: str) -> Json | None:
        return await self._reports.job.remote(owner, identifier)

    async def job_result(self, owner: str, identifier: str) -> JobResult | None:
        return await self._reports.job_result.remote(owner, identifier)

    async def cancel_job(self, owner: str, identifier: str) -> bool:
        return await self._reports.cancel_job.remote(owner, identifier)

    async def models(self) -> list[Json]:
        if self._models is None:
            self._models = await asyncio.to_thread(model_list, self.settings, self._refs)
        return self._models

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

    async def _result(self, chain: Sequence[Any], timeout_s: float | None = None) -> Any:
        """The last response of a chain; what went wrong on the way as RayfaceError."""
        from ray.exceptions import RayTaskError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        timeout_s = timeout_s or self.settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await chain[-1]
        except TimeoutError:
            for response in chain:
                response.cancel()
            raise RayfaceError(
                f"The photo was not done after {timeout_s:g} s; send a smaller one, or try "
                "again when the service is less busy.",
                status=504,
                kind="timeout",
            ) from None
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise problems.Overloaded(self.settings.retry_after_s) from error
        except RayTaskError as error:
            cause = problems.cause(error)
            if cause is None:
                raise
            raise cause from error


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
    """What /v1/models says of each model in use."""
    from rayface.store import open_store

    store = open_store(settings.store)
    keys = ("name", "version", "system", "licence", "terms", "commercial_use", "sha256", "dtype", "created", "metrics")
    models = []
    for use, ref in refs.items():
        info = store.info(ref)
        models.append({"use": use, **{key: info[key] for key in keys if key in info}})
    return models
