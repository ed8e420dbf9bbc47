"""The Ray Serve deployments around `rayface.stages`.

A `Work` passes from one to the next and photos pass by reference through the object store. Networks run off
the event loop, which stays free for health checks, one call of a stage at a time per replica, on the faces of all
requests that wait (`Batcher`).
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any

from rayface import metrics
from rayface.guard import STAGE as GUARD
from rayface.imaging.codec import Limits
from rayface.pipeline import SWAPS
from rayface.work import Params, Photo, Work
from serve import measured
from serve.batching import Batcher
from serve.models import Models, photo_key, pinned, work_key
from serve.settings import Settings, Stage

logger = logging.getLogger("ray.serve")


class Cores:
    """Torch threads of a call, by the photos that a replica works on at the time.

    One photo alone is done sooner with several threads; of many, more are done a second with one thread each.
    `count`: cores to share; `most`: threads of one call.
    """

    def __init__(self, count: int, most: int) -> None:
        self._count, self._most, self._photos = count, most, 0

    @property
    def threads(self) -> int:
        return max(1, min(self._most, self._count // max(1, self._photos)))

    @contextmanager
    def photo(self) -> Iterator[None]:
        """For as long as one photo is worked on; on the event loop."""
        self._photos += 1
        try:
            yield
        finally:
            self._photos -= 1


def decoded(data: bytes, limits: Limits) -> Photo:
    """The photo of an image file. Raises RayfaceError, see `codec.decode`."""
    from rayface.imaging.codec import decode

    started = time.perf_counter()
    photo = Photo.of(decode(data, limits))
    photo.timings_ms["decode"] = round(1000 * (time.perf_counter() - started), 2)
    return photo


class BatchedStage:
    """What the deployments with a network have in common. `use`: what the stage is for, in figures and logs."""

    def __init__(self, stage: Stage, use: str) -> None:
        import torch

        self.stage, self.use = stage, use
        if stage.num_gpus > 0:  # a fraction of a GPU is a scheduling figure; this bounds the memory as well
            torch.cuda.set_per_process_memory_fraction(min(1.0, stage.num_gpus))
        self._cores = Cores(stage.threads or 1, stage.threads or 1)
        waited = partial(metrics.STAGE_WAIT.record, stage=use)
        self.batcher = Batcher(self._run, stage.batch, stage.batch_wait_s, waited)

    def join(self, cores: Cores, executor: Executor | None) -> None:
        """Share a replica with other stages: its cores, and, where they take turns, the thread that runs them."""
        self._cores = cores
        self.batcher.executor = executor or self.batcher.executor

    def _run(self, items: list[Any]) -> Sequence[Any]:
        import torch

        torch.set_num_threads(self._cores.threads)  # of this thread
        started = time.perf_counter()
        try:
            with torch.inference_mode():
                results = self.run(items)
        except Exception as error:
            if len(items) == 1:  # of several each is tried alone
                measured.failed(self.use, error)
            raise
        seconds = time.perf_counter() - started
        measured.batch(self.use, results, self.stage.batch, seconds)
        faces = sum(map(measured.faces_of, results))
        logger.info("%s: %d photo(s), %d face(s) in %.0f ms", self.use, len(results), faces, 1000 * seconds)
        return results

    def run(self, items: list[Any]) -> Sequence[Any]:
        """The work itself, in a thread: one result for each item."""
        raise NotImplementedError

    async def counts(self) -> dict[str, int]:
        """Requests and batches since the replica started, and the largest batch."""
        return dict(self.batcher.counts)


class ModelStage(BatchedStage):
    """A stage with models of the store, which `user_config: {model: ...}` names (`models.parse_shares`).

    Serve calls `reconfigure` before the first request, and again when a deployment's `user_config` is deployed anew:
    the replica stays, and serves the old models until the new ones are loaded.
    """

    def __init__(self, settings: Settings, stage: Stage, use: str) -> None:
        super().__init__(stage, use)
        self.settings = settings
        self.models = Models(self._load)

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        before = self.models.text
        await self.models.change(str(config.get("model", "")))
        measured.served(self.use, before, self.models.text, self.models.refused)

    async def serving(self) -> dict[str, str]:
        """What this replica serves, and what it was asked to serve but could not."""
        return {"model": self.models.text, "refused": self.models.refused}

    def _load(self, ref: str) -> Any:
        return self.load(pinned(self.settings, self.use, ref))

    def load(self, ref: str) -> Any:
        from rayface.pipeline import load_step
        from rayface.store import open_store

        return load_step(open_store(self.settings.store, self.settings.commercial_only), ref, self.stage.device)


class FaceDetector(ModelStage):
    """Photos -> works with aligned crops of `side` px."""

    def __init__(self, settings: Settings, side: int) -> None:
        super().__init__(settings, settings.detector, "detect")
        self._side = side

    async def __call__(self, photo: Photo, params: Params) -> Work:
        return await self.batcher((photo, params))

    def run(self, items: list[tuple[Photo, Params]]) -> Sequence[Work]:
        from rayface.stages import detect_faces

        def detect(detector: Any, items: list[tuple[Photo, Params]]) -> Sequence[Work]:
            photos, params = zip(*items, strict=True)
            return detect_faces(detector, photos, params, self.settings.max_faces, self._side)

        return self.models.run(items, lambda item: photo_key(item[0]), detect)


class StepRunner(ModelStage):
    """The step `name` of the chain."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, settings.step, name)

    async def __call__(self, work: Work, params: Params) -> Work:
        return await self.batcher((work, params))

    def run(self, items: list[tuple[Work, Params]]) -> Sequence[Work]:
        from rayface.stages import run_step

        def change(step: Any, items: list[tuple[Work, Params]]) -> Sequence[Work]:
            works, params = zip(*items, strict=True)
            return run_step(step, works, params)

        return self.models.run(items, lambda item: work_key(item[0]), change)


class PhotoStepRunner(ModelStage):
    """The step `name` on whole photos (super-resolution): one photo at a time, tile by tile."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, settings.photo_step, name)

    async def __call__(self, photo: Photo, params: Params) -> Photo:
        return await self.batcher((photo, params))

    def run(self, items: list[tuple[Photo, Params]]) -> Sequence[Photo]:
        from rayface.stages import enlarge

        def change(step: Any, items: list[tuple[Photo, Params]]) -> Sequence[Photo]:
            return [enlarge(step, photo, params, self.settings.max_output_megapixels) for photo, params in items]

        return self.models.run(items, lambda item: photo_key(item[0]), change)


class FaceGuard(ModelStage):
    """Works -> works in which no changed face shows somebody else."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, settings.guard, GUARD)

    def load(self, ref: str) -> Any:
        from rayface.guard import Guard
        from rayface.store import open_store

        settings = self.settings
        store = open_store(settings.store, settings.commercial_only)
        return Guard.load(store, ref, settings.identity_guard, settings.similarity_threshold, self.stage.device)

    async def __call__(self, work: Work) -> Work:
        return await self.batcher(work)

    def run(self, items: list[Work]) -> Sequence[Work]:
        from rayface.guard import guard_faces

        return self.models.run(items, work_key, guard_faces)


class FaceParser(ModelStage):
    """Works -> works with masks, of the changed faces or of every face."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, settings.parser, "parse")

    async def __call__(self, work: Work, every_face: bool = False) -> Work:
        return await self.batcher((work, every_face))

    def run(self, items: list[tuple[Work, bool]]) -> Sequence[Work]:
        from rayface.stages import parse_faces

        def parse(parser: Any, items: list[tuple[Work, bool]]) -> Sequence[Work]:
            works, every = zip(*items, strict=True)
            return parse_faces(parser, works, every)

        return self.models.run(items, lambda item: work_key(item[0]), parse)


class SwapDetector(ModelStage):
    """Works -> works that say of every face how likely it was swapped."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, settings.swaps, SWAPS)

    async def __call__(self, work: Work) -> Work:
        return await self.batcher(work)

    def run(self, items: list[Work]) -> Sequence[Work]:
        from rayface.stages import judge_swaps

        return self.models.run(items, work_key, judge_swaps)


class Fusion(BatchedStage):
    """Photo and parsed work (None: no step was about faces) -> the encoded result and its report as JSON values.

    `unguarded`: see `stages.fuse`.
    """

    def __init__(self, settings: Settings, unguarded: str = "") -> None:
        super().__init__(settings.fusion, "fuse")
        self._unguarded = unguarded

    async def __call__(
        self, photo: Photo, work: Work | None, steps: list[str], format: str, quality: int
    ) -> tuple[bytes, dict[str, Any]]:
        return await self.batcher((photo, work, steps, format, quality))

    def run(self, items: list[tuple[Photo, Work | None, list[str], Any, int]]) -> Sequence[Any]:
        return [self._fuse(*item) for item in items]

    def _fuse(
        self, photo: Photo, work: Work | None, steps: list[str], format: Any, quality: int
    ) -> tuple[bytes, dict[str, Any]]:
        from dataclasses import asdict

        from rayface.credentials import xmp
        from rayface.imaging.codec import encode
        from rayface.stages import fuse

        result = fuse(photo, work, steps, self._unguarded)
        started = time.perf_counter()
        report = asdict(result.report)
        data = encode(result.photo, format, quality, xmp(report))
        report["timings_ms"]["encode"] = round(1000 * (time.perf_counter() - started), 2)
        return data, report
