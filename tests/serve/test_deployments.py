"""What a deployment adds to the function it is built around, called without Ray."""

import asyncio
from contextlib import ExitStack

import numpy as np
import torch

from rayface.imaging.codec import decode
from rayface.work import FaceReport, Photo, Work
from serve.deployments import BatchedStage, Cores, Fusion
from serve.graph import Local
from serve.settings import Settings, Stage
from tests.scenes import scene


def work_of(changed: bool) -> Work:
    """A face of which nothing is pasted, as its mask is background."""
    crops = np.zeros((1, 3, 64, 64), np.uint8)
    face = FaceReport([0, 0, 64, 64], [], 1.0, 64.0, similarity=0.99 if changed else None)
    matrices, masks = np.eye(2, 3, dtype=np.float32)[None], np.zeros((1, 64, 64), np.uint8)
    return Work(320, 240, crops, crops, matrices, [face], [], np.array([changed]), masks=masks)


def test_photos_that_are_worked_on_together_share_the_cores() -> None:
    cores = Cores(4, most=3)
    seen = [cores.threads]
    with ExitStack() as photos:
        for _ in range(5):
            photos.enter_context(cores.photo())
            seen.append(cores.threads)
    assert [*seen, cores.threads] == [3, 3, 2, 1, 1, 1, 3]
    before = torch.get_num_threads()

    async def threads_of_a_call() -> int:
        stage = BatchedStage(Stage(threads=1), "a stage")
        stage.run = lambda items: [torch.get_num_threads() for _ in items]  # type: ignore[method-assign]
        stage.join(cores, None)
        return int(await stage.batcher("item"))

    assert asyncio.run(threads_of_a_call()) == 3
    assert torch.get_num_threads() == before, "only the stage's own thread is concerned"


def test_local_stages_are_chained_like_handles_and_cancelled_down_the_chain() -> None:
    cancelled: list[str] = []

    async def wait(name: str) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(name)
            raise
        return name

    async def join(first: str, second: str) -> str:
        return first + second

    async def fail(_: str) -> str:
        raise ValueError("here")

    async def run() -> None:
        async def ready(name: str) -> str:
            return name

        assert await Local(join).remote(Local(ready).remote("a"), "b") == "ab"
        try:
            await Local(join).remote(Local(fail).remote("a"), "b")
        except ValueError as error:
            assert str(error) == "here"  # noqa: PT017
        chain = Local(join).remote(Local(join).remote(Local(wait).remote("first"), "b"), "c")
        await asyncio.sleep(0.01)
        chain.cancel()
        await asyncio.gather(chain, return_exceptions=True)
        assert chain.cancelled()

    asyncio.run(run())
    assert cancelled == ["first"]


def test_the_report_says_why_identity_was_not_checked() -> None:
    why = "Identity was not checked: there is no recognition model."

    async def fuse(changed: bool) -> tuple[bytes, dict[str, object]]:
        fusion = Fusion(Settings(fusion=Stage(threads=1)), why)
        return await fusion(Photo.of(scene(0)), work_of(changed), ["enhance"], "png", 90)

    image, report = asyncio.run(fuse(changed=True))
    assert torch.equal(decode(image), scene(0))
    assert report["notes"] == [why]
    assert report["faces"][0]["similarity"] == 0.99  # type: ignore[index]
    _, report = asyncio.run(fuse(changed=False))
    assert report["notes"] == ["No face was changed; the photo is unchanged."], "nothing was there to be checked"
