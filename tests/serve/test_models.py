"""The models of a deployment: shares, changes while it serves, wishes that cannot be met."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayface.errors import RayfaceError
from rayface.work import Params, Photo, Work
from serve.deployments import PhotoStepRunner
from serve.ingress import model_list
from serve.models import Models, join_shares, parse_shares, photo_key, pinned, work_key
from serve.settings import settings_from
from tests.tiny_models import save_tiny_models


def test_shares_are_read_and_written() -> None:
    assert parse_shares("enhancement@3") == {"enhancement@3": 1.0}
    assert parse_shares(" a=3 ,b@2 = 1") == {"a": 0.75, "b@2": 0.25}
    assert parse_shares("/models/run=x/enhancement/1") == {"/models/run=x/enhancement/1": 1.0}
    for text in ("a", "a=0.75, b=0.25"):
        assert join_shares(parse_shares(text)) == text
    for wrong in ("", "a, b", "a=0, b=1", "a=-1, b=2", "a=1, a=2", "=1, b=1", "a=nan, b=1", "a=inf, b=1", "a=1, b=x"):
        with pytest.raises(RayfaceError, match=r"give name@version, or several with their shares"):
            parse_shares(wrong)


def noise(seed: int) -> Photo:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    return Photo(pixels, 32, 32)


def test_a_photo_always_meets_the_same_version_and_shares_are_kept() -> None:
    """Over many photos, whatever batches they come in; the results stay in order."""
    models = Models(lambda ref: ref)
    asyncio.run(models.change("old=0.8, new=0.2"))
    photos = [noise(seed) for seed in range(400)]

    def name(model: str, items: list[Photo]) -> list[tuple[str, int]]:
        return [(model, id(item)) for item in items]

    together = models.run(photos, photo_key, name)
    alone = [models.run([photo], photo_key, name)[0] for photo in photos]
    assert together == alone
    assert [who for _, who in together] == [id(photo) for photo in photos]
    counted = Counter(model for model, _ in together)
    assert 50 < counted["new"] < 110
    faces = [Work(32, 32, *[photo.pixels[None]] * 2, *[np.zeros(0)] * 1, [], [], np.zeros(1, bool)) for photo in photos]
    assert len({work_key(work) for work in faces}) == len(faces)


def test_a_change_takes_over_between_batches_and_a_wrong_one_not_at_all() -> None:
    loaded: list[str] = []

    def load(ref: str) -> str:
        if ref == "missing":
            raise RayfaceError("no model 'missing'")
        loaded.append(ref)
        return ref

    def told(model: str, items: list[Any]) -> list[str]:
        return [model] * len(items)

    async def scenario() -> None:
        models = Models(load)
        with pytest.raises(RayfaceError, match="no model 'missing'"):
            await models.change("missing")
        await models.change("a")
        await models.change("missing")
        assert (models.text, models.run([1], int, told)) == ("a", ["a"])
        assert models.refused == "missing: no model 'missing'"
        await models.change("a=0.5, b=0.5")
        assert (models.text, models.refused) == ("a=0.5, b=0.5", "")
        assert models.run([0, 2**32 - 1], int, told) == ["a", "b"]
        await models.change("b")
        assert models.run([0, 2**32 - 1], int, told) == ["b", "b"]

    asyncio.run(scenario())
    assert loaded == ["a", "b"], "what is held is not loaded again"


def test_a_replica_serves_another_version_without_a_restart(tmp_path: Path) -> None:
    """A deployment's class itself, without Ray: reconfigured between two photos, and refusing what it may not serve."""
    store = save_tiny_models(tmp_path / "store")
    save_tiny_models(tmp_path / "store")
    settings = settings_from({"store": store.uri, "steps": ["upscale"], "allowed_licences": ["Apache-2.0"]})
    assert pinned(settings, "upscale", "super_resolution") == "super_resolution@2"
    photo = noise(0)

    async def scenario() -> None:
        runner = PhotoStepRunner(settings, "upscale")
        served = []
        for model in ("super_resolution@1", "super_resolution@2", "enhancement@1", "super_resolution@9", ""):
            await runner.reconfigure({"model": model})
            served.append((await runner(photo, Params())).models["upscale"])
        assert served == ["super_resolution@1", *["super_resolution@2"] * 4]
        state = await runner.serving()
        assert state["model"] == "super_resolution@2"
        await runner.reconfigure({"model": "enhancement@1"})
        assert "cannot be the model of 'upscale'" in (await runner.serving())["refused"]

    asyncio.run(scenario())


def test_a_metric_that_is_no_number_is_null_in_the_list(tmp_path: Path) -> None:
    """A model of one's own may hold a mean over no faces; the answer is JSON all the same."""
    store = save_tiny_models(tmp_path / "store")
    written = tmp_path / "store/super_resolution/1/metrics.json"
    written.write_text('{"psnr": NaN, "by": [{"value": -Infinity, "name": "all"}, 1.5]}')
    (told,) = model_list(settings_from({"store": store.uri, "steps": ["upscale"]}), {"upscale": "super_resolution@1"})
    assert told["metrics"] == {"psnr": None, "by": [{"value": None, "name": "all"}, 1.5]}
    json.dumps(told, allow_nan=False)
