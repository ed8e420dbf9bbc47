"""A photo's way over the deployments: which calls a request makes, and what waits for what."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rayface.guard import STAGE as GUARD
from rayface.imaging.codec import Limits
from rayface.pipeline import SWAP, SWAPS, face_steps, photo_steps
from rayface.work import Params

Call = Callable[[], Sequence[Any]]
Ask = Callable[[Call], Awaitable[Any]]


class Graph(Protocol):
    """Each makes calls and returns their responses in order; the last one's value is the answer.

    `photo` is what `taken` made of an image file: for `Stages` a `Photo` in the object store, from which
    every deployment maps it; for `OneReplica` the file itself, decoded there.
    """

    async def taken(self, data: bytes, limits: Limits) -> Any: ...

    @property
    def finds_faces(self) -> bool: ...

    @property
    def finds_swaps(self) -> bool: ...

    def process(self, photo: Any, steps: list[str], params: Params, format: str, quality: int) -> list[Any]: ...

    def detect(self, photo: Any) -> list[Any]: ...

    def parse(self, photo: Any) -> list[Any]: ...

    def detect_swap(self, photo: Any) -> list[Any]: ...

    async def serving(self, ask: Ask) -> dict[str, dict[str, str]]:
        """`{use: what ModelStage.serving tells}`; `ask` waits for the answer of calls."""
        ...


@dataclass(frozen=True)
class Stages:
    """The stages one by one, as Ray Serve handles or `Local` ones. `detector`, `parser` None: no step is about faces;
    `guard` None: identities are not compared; `swaps` None: no model tells swapped faces.
    """

    detector: Any
    steps: Mapping[str, Any]
    guard: Any
    parser: Any
    fusion: Any
    swaps: Any = None

    @property
    def finds_faces(self) -> bool:
        return self.detector is not None

    @property
    def finds_swaps(self) -> bool:
        return self.swaps is not None

    async def taken(self, data: bytes, limits: Limits) -> Any:
        import ray

        from serve.deployments import decoded

        return await asyncio.to_thread(lambda: ray.put(decoded(data, limits)))

    def process(self, photo: Any, steps: list[str], params: Params, format: str, quality: int) -> list[Any]:
        """The order is that of `Pipeline.process`."""
        chain: list[Any] = []
        for name in (name for name in steps if name in photo_steps()):
            photo = self.steps[name].remote(photo, params)
            chain.append(photo)
        work = None
        if about_faces := face_steps(steps):
            chain.append(self.detector.remote(photo, params))
            for name in about_faces:
                chain.append(self.steps[name].remote(chain[-1], params))
            if self.guard is not None:
                chain.append(self.guard.remote(chain[-1]))
            if SWAP in steps and self.swaps is not None:
                chain.append(self.swaps.remote(chain[-1]))
            work = self.parser.remote(chain[-1])
            chain.append(work)
        return [*chain, self.fusion.remote(photo, work, steps, format, quality)]

    def detect(self, photo: Any) -> list[Any]:
        return [self.detector.remote(photo, Params())]

    def parse(self, photo: Any) -> list[Any]:
        detected = self.detector.remote(photo, Params())
        return [detected, self.parser.remote(detected, True)]

    def detect_swap(self, photo: Any) -> list[Any]:
        detected = self.detector.remote(photo, Params())
        return [detected, self.swaps.remote(detected)]

    def models(self) -> dict[str, Any]:
        """The stages that have models, by use."""
        stages = {"detect": self.detector, **self.steps, "parse": self.parser, GUARD: self.guard, SWAPS: self.swaps}
        return {use: stage for use, stage in stages.items() if stage is not None}

    async def serving(self, ask: Ask) -> dict[str, dict[str, str]]:
        stages = self.models()
        told = await asyncio.gather(*(ask(partial(_only, stage.serving)) for stage in stages.values()))
        return dict(zip(stages, told, strict=True))


@dataclass(frozen=True)
class OneReplica:
    """All stages behind the handle of one deployment, see `together.Together`."""

    together: Any
    finds_faces: bool
    finds_swaps: bool = False

    async def taken(self, data: bytes, limits: Limits) -> bytes:
        return data

    def process(self, photo: Any, steps: list[str], params: Params, format: str, quality: int) -> list[Any]:
        return [self.together.process.remote(photo, steps, params, format, quality)]

    def detect(self, photo: Any) -> list[Any]:
        return [self.together.detect.remote(photo)]

    def parse(self, photo: Any) -> list[Any]:
        return [self.together.parse.remote(photo)]

    def detect_swap(self, photo: Any) -> list[Any]:
        return [self.together.detect_swap.remote(photo)]

    async def serving(self, ask: Ask) -> dict[str, dict[str, str]]:
        return dict(await ask(partial(_only, self.together.serving)))


class Local:
    """A stage in this process, called like a Ray Serve handle: at once, with responses of others as arguments.

    Its responses are tasks; where the last of a chain is cancelled, so are those that it waits for.
    """

    def __init__(self, stage: Any) -> None:
        self._stage = stage

    def remote(self, *args: Any) -> "asyncio.Task[Any]":
        return asyncio.create_task(self._call(args))

    async def _call(self, args: Sequence[Any]) -> Any:
        return await self._stage(*[await arg if isinstance(arg, asyncio.Task) else arg for arg in args])


def _only(method: Any) -> list[Any]:
    """A chain of one call without arguments."""
    return [method.remote()]
