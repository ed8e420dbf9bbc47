"""The Ray Serve deployments around `rayface.stages`.

A `Work` passes from one to the next and photos pass by reference through the object store. Networks run off
the event loop, which stays free for health checks, one call at a time per replica, on the faces of all
requests that wait (`Batcher`).
"""

import time
from collections.abc import Sequence
from typing import Any

from rayface.work import Params, Photo, Work
from serve.batching import Batcher
from serve.settings import Settings, Stage, torch_threads


class BatchedStage:
    """What the deployments with a network have in common."""

    def __init__(self, stage: Stage) -> None:
        import torch

        torch.set_num_threads(torch_threads(stage))
        if stage.num_gpus > 0:  # a fraction of a GPU is a scheduling figure; this bounds the memory as well
            torch.cuda.set_per_process_memory_fraction(min(1.0, stage.num_gpus))
        self.batcher = Batcher(self._run, stage.max_batch, stage.batch_wait_s)

    def _run(self, items: list[Any]) -> Sequence[Any]:
        import torch

        with torch.inference_mode():
            return self.run(items)

    def run(self, items: list[Any]) -> Sequence[Any]:
        """The work itself, in a thread: one result for each item."""
        raise NotImplementedError

    async def counts(self) -> dict[str, int]:
        """Requests and batches since the replica started, and the largest batch."""
        return dict(self.batcher.counts)


class FaceDetector(BatchedStage):
    """Photos -> works with aligned crops of `side` px."""

    def __init__(self, settings: Settings, ref: str, side: int) -> None:
        from rayface.pipeline import load_step
        from rayface.store import open_store

        super().__init__(settings.detector)
        self._detector = load_step(open_store(settings.store, settings.commercial_only), ref, settings.detector.device)
        self._max_faces, self._side = settings.max_faces, side

    async def __call__(self, photo: Photo, params: Params) -> Work:
        return await self.batcher((photo, params))

    def run(self, items: list[tuple[Photo, Params]]) -> Sequence[Work]:
        from rayface.stages import detect_faces

        photos = [photo for photo, _ in items]
        return detect_faces(self._detector, photos, [params for _, params in items], self._max_faces, self._side)


class StepRunner(BatchedStage):
    """One step of the chain, with its model `ref`."""

    def __init__(self, settings: Settings, ref: str) -> None:
        from rayface.pipeline import load_step
        from rayface.store import open_store

        super().__init__(settings.step)
        self._step = load_step(open_store(settings.store, settings.commercial_only), ref, settings.step.device)

    async def __call__(self, work: Work, params: Params) -> Work:
        return await self.batcher((work, params))

    def run(self, items: list[tuple[Work, Params]]) -> Sequence[Work]:
        from rayface.stages import run_step

        return run_step(self._step, [work for work, _ in items], [params for _, params in items])


class PhotoStepRunner(BatchedStage):
    """One step on whole photos (super-resolution), with its model `ref`: one photo at a time, tile by tile."""

    def __init__(self, settings: Settings, ref: str) -> None:
        from rayface.pipeline import load_step
        from rayface.store import open_store

        super().__init__(settings.photo_step)
        store = open_store(settings.store, settings.commercial_only)
        self._step = load_step(store, ref, settings.photo_step.device)
        self._max_megapixels = settings.max_output_megapixels

    async def __call__(self, photo: Photo, params: Params) -> Photo:
        return await self.batcher((photo, params))

    def run(self, items: list[tuple[Photo, Params]]) -> Sequence[Photo]:
        from rayface.stages import enlarge

        return [enlarge(self._step, photo, params, self._max_megapixels) for photo, params in items]


class FaceGuard(BatchedStage):
    """Works -> works in which no changed face shows somebody else, by the recogniser `ref`."""

    def __init__(self, settings: Settings, ref: str) -> None:
        from rayface.guard import Guard
        from rayface.store import open_store

        super().__init__(settings.guard)
        store = open_store(settings.store, settings.commercial_only)
        action, threshold = settings.identity_guard, settings.similarity_threshold
        self._guard = Guard.load(store, ref, action, threshold, settings.guard.device)

    async def __call__(self, work: Work) -> Work:
        return await self.batcher(work)

    def run(self, items: list[Work]) -> Sequence[Work]:
        from rayface.guard import guard_faces

        return guard_faces(self._guard, items)


class FaceParser(BatchedStage):
    """Works -> works with masks, of the changed faces or of every face."""

    def __init__(self, settings: Settings, ref: str) -> None:
        from rayface.pipeline import load_step
        from rayface.store import open_store

        super().__init__(settings.parser)
        self._parser = load_step(open_store(settings.store, settings.commercial_only), ref, settings.parser.device)

    async def __call__(self, work: Work, every_face: bool = False) -> Work:
        return await self.batcher((work, every_face))

    def run(self, items: list[tuple[Work, bool]]) -> Sequence[Work]:
        from rayface.stages import parse_faces

        return parse_faces(self._parser, [work for work, _ in items], [every for _, every in items])


class Fusion(BatchedStage):
    """Photo and parsed work (None: no step was about faces) -> the encoded result and its report as JSON values.

    `unguarded`: see `stages.fuse`.
    """

    def __init__(self, settings: Settings, unguarded: str = "") -> None:
        super().__init__(settings.fusion)
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

        from rayface.imaging.codec import encode
        from rayface.stages import fuse

        result = fuse(photo, work, steps, self._unguarded)
        started = time.perf_counter()
        data = encode(result.photo, format, quality)
        result.report.timings_ms["encode"] = round(1000 * (time.perf_counter() - started), 2)
        return data, asdict(result.report)
