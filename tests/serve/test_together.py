"""All stages in one replica, called without Ray: models that are changed, photos that are given up."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from rayface.errors import RayfaceError
from rayface.imaging.codec import decode, encode
from rayface.pipeline import Pipeline
from rayface.store import ModelStore
from rayface.work import Params
from serve.app import resolve_models
from serve.settings import Settings
from serve.together import Together
from tests.scenes import scene
from tests.tiny_models import save_tiny_models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Two versions of the tiny enhancer."""
    store = save_tiny_models(tmp_path_factory.mktemp("store"), ("enhancement", "parsing"))
    save_tiny_models(Path(store.uri), ("enhancement",))
    return store


def together(store: ModelStore) -> Together:
    refs = {"enhance": "enhancement@1", "detect": "detection@r1", "parse": "parsing@1"}
    settings = Settings(store=store.uri, steps=("enhance",))
    return Together(settings, refs, 256, "Identity was not checked.")


async def enhanced(replica: Together, png: bytes) -> tuple[torch.Tensor, dict[str, Any]]:
    image, report = await replica.process(png, ["enhance"], Params(), "png", 92)
    return decode(image), report


def test_it_gives_the_pixels_of_the_pipeline_and_changes_models_by_use(store: ModelStore, face_png: bytes) -> None:
    async def run() -> None:
        replica = together(store)
        await replica.reconfigure({})
        assert list(await replica.serving()) == ["detect", "enhance", "parse"]
        photo, report = await enhanced(replica, face_png)
        models = {"enhance": "enhancement@1"}
        pipeline = Pipeline.from_store(store, ["enhance"], models, identity_guard="off")
        assert torch.equal(photo, pipeline.process(scene(0), ["enhance"]).photo)
        assert report["models"]["enhance"] == "enhancement@1"
        assert report["notes"] == ["Identity was not checked."]

        await replica.reconfigure({"enhance": "enhancement@2"})
        assert (await enhanced(replica, face_png))[1]["models"]["enhance"] == "enhancement@2"
        await replica.reconfigure({"enhance": "enhancement@9", "enhancer": "enhancement@1"})
        serving = await replica.serving()
        assert serving["enhance"]["model"] == "enhancement@2"
        assert "enhancement@9" in serving["enhance"]["refused"]
        assert serving["parse"]["refused"] == "enhancer: not in use; in use are detect, enhance, parse"
        await replica.reconfigure({})
        serving = await replica.serving()
        assert serving["enhance"] == {"model": "enhancement@1", "refused": ""}

    asyncio.run(run())


def test_a_broken_photo_and_one_that_is_given_up_leave_nothing_behind(store: ModelStore, face_png: bytes) -> None:
    async def run() -> None:
        replica = together(store)
        await replica.reconfigure({})
        with pytest.raises(RayfaceError, match=r"truncated|broken|corrupt|short"):
            await enhanced(replica, face_png[:2000])
        given_up = asyncio.create_task(enhanced(replica, face_png))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert given_up.cancelled()
        counts = await replica.counts()
        assert counts["enhance"]["requests"] == 0
        assert (await enhanced(replica, face_png))[1]["changed"] == 1
        assert replica._cores._photos == 0

    asyncio.run(run())


def test_of_many_photos_one_more_than_there_are_cores_is_worked_on(
    store: ModelStore, face_png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.together.os.cpu_count", lambda: 2)

    async def run() -> None:
        replica, seen = together(store), []
        await replica.reconfigure({})

        async def watch() -> None:
            while True:
                seen.append(replica._cores._photos)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        results = await asyncio.gather(*(enhanced(replica, face_png) for _ in range(6)))
        watching.cancel()
        assert [report["changed"] for _, report in results] == [1] * 6
        assert max(seen) == 3

    asyncio.run(run())


def grid(count: int) -> torch.Tensor:
    """The repository's own photo, which shows two faces, `count` times in rows of three."""
    photo = decode((ROOT / "docs/images/photo.jpg").read_bytes())
    _, height, width = photo.shape
    canvas = torch.full((3, height * (1 + (count - 1) // 3), width * min(count, 3)), 110, dtype=torch.uint8)
    for number in range(count):
        x, y = width * (number % 3), height * (number // 3)
        canvas[:, y : y + height, x : x + width] = photo
    return canvas


def test_photos_of_two_to_twenty_faces_with_the_release(tmp_path: Path) -> None:
    """At the same time, so that their faces wait for each other."""
    settings = Settings(store=str(tmp_path), steps=("enhance",))
    refs = resolve_models(settings)
    counts = (1, 4, 10)

    async def run() -> list[dict[str, Any]]:
        replica = Together(settings, refs, 256, "")
        await replica.reconfigure({})
        photos = [encode(grid(count), "jpeg") for count in counts]
        asked = [replica.process(photo, ["enhance"], Params(), "jpeg", 92) for photo in photos]
        return [report for _, report in await asyncio.gather(*asked)]

    reports = asyncio.run(run())
    assert [len(report["faces"]) for report in reports] == [2 * count for count in counts]
    assert [report["changed"] for report in reports] == [2 * count for count in counts]
