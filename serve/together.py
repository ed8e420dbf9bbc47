"""All stages in one replica: on the same cores, or the same GPU, a photo gains nothing from changing processes."""

import asyncio
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from rayface import metrics
from rayface.guard import STAGE as GUARD
from rayface.pipeline import SWAPS, photo_steps
from rayface.work import Params, Photo, Work
from serve.deployments import (
    BatchedStage,
    Cores,
    FaceDetector,
    FaceGuard,
    FaceParser,
    Fusion,
    ModelStage,
    PhotoStepRunner,
    StepRunner,
    SwapDetector,
    decoded,
)
from serve.graph import Local, Stages
from serve.settings import MOST_THREADS, STAGES, Settings, Stage

logger = logging.getLogger("ray.serve")


class Together:
    """The deployment of the layout `together`: image files in, results out, see `graph.Stages`.

    Stages of different photos run at the same time, on their share of the cores; on a GPU they take turns. On CPUs one
    photo more than there are cores is worked on at a time: more would not be done sooner, and the rest take less memory
    as files than as pixels.
    `refs`: `{use: models}` as `models.parse_shares` reads them; `user_config` may name others.
    """

    def __init__(self, settings: Settings, refs: Mapping[str, str], side: int, unguarded: str) -> None:
        self._refs, self._limits, self._refused = dict(refs), settings.limits, ""
        settings = _all_on(settings, settings.together)
        uses = ("detect", *settings.steps, "parse", GUARD, SWAPS)
        self._models = {use: _stage(settings, use, side) for use in uses if use in refs}
        fusion = Fusion(settings, unguarded)
        own = settings.together
        cores = os.cpu_count() or 1
        self._cores = Cores(own.threads or cores, own.threads or MOST_THREADS)
        self._places = asyncio.Semaphore(settings.max_in_flight if own.num_gpus > 0 else cores + 1)
        turns = ThreadPoolExecutor(1) if own.num_gpus > 0 else None
        stages: list[BatchedStage] = [*self._models.values(), fusion]
        for stage in stages:
            stage.join(self._cores, turns)
        around = {use: self._models.get(use) for use in ("detect", GUARD, "parse", SWAPS)}
        local: dict[str, Any] = {use: Local(stage) if stage else None for use, stage in around.items()}
        steps = {use: Local(stage) for use, stage in self._models.items() if use not in around}
        self._graph = Stages(local["detect"], steps, local[GUARD], local["parse"], Local(fusion), local[SWAPS])

    async def reconfigure(self, config: Mapping[str, str]) -> None:
        """Serve the models of `config`, by use, and for other uses those that the replica started with."""
        unknown = ", ".join(sorted(set(config) - set(self._models)))
        self._refused = f"{unknown}: not in use; in use are {', '.join(self._models)}" if unknown else ""
        if unknown:
            logger.error("user_config names models of %s", self._refused)
        metrics.MODEL_REFUSED.record(1.0 if unknown else 0.0, stage="unknown")
        for use, stage in self._models.items():
            await stage.reconfigure({"model": config.get(use, self._refs[use])})

    async def process(
        self, data: bytes, steps: list[str], params: Params, format: str, quality: int
    ) -> tuple[bytes, dict[str, Any]]:
        async with self._place():
            photo = await self._decoded(data)
            result: tuple[bytes, dict[str, Any]] = await self._graph.process(photo, steps, params, format, quality)[-1]
        return result

    async def detect(self, data: bytes) -> Work:
        async with self._place():
            work: Work = await self._graph.detect(await self._decoded(data))[-1]
        return work

    async def parse(self, data: bytes) -> Work:
        async with self._place():
            work: Work = await self._graph.parse(await self._decoded(data))[-1]
        return work

    async def detect_swap(self, data: bytes) -> Work:
        async with self._place():
            work: Work = await self._graph.detect_swap(await self._decoded(data))[-1]
        return work

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Among the photos that are worked on."""
        async with self._places:
            with self._cores.photo():
                yield

    async def _decoded(self, data: bytes) -> Photo:
        return await asyncio.to_thread(decoded, data, self._limits)

    async def serving(self) -> dict[str, dict[str, str]]:
        told = {use: await stage.serving() for use, stage in self._models.items()}
        return {use: {**one, "refused": one["refused"] or self._refused} for use, one in told.items()}

    async def counts(self) -> dict[str, dict[str, int]]:
        """`BatchedStage.counts` by use."""
        return {use: await stage.counts() for use, stage in self._models.items()}


def _stage(settings: Settings, use: str, side: int) -> ModelStage:
    if use == "detect":
        return FaceDetector(settings, side)
    if use == "parse":
        return FaceParser(settings)
    if use == GUARD:
        return FaceGuard(settings)
    if use == SWAPS:
        return SwapDetector(settings)
    return (PhotoStepRunner if use in photo_steps() else StepRunner)(settings, use)


def _all_on(settings: Settings, own: Stage) -> Settings:
    """`settings` with every stage on the device of `own`."""
    placed = {name: dataclasses.replace(getattr(settings, name), num_gpus=own.num_gpus) for name in STAGES}
    return dataclasses.replace(settings, **placed)
