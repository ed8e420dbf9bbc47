"""`/v1/detect-swap`: in one replica, stage by stage, over HTTP, and where there is no model for it."""

import asyncio
from pathlib import Path

import pytest
import torch

from rayface.client import Client, ServiceError
from rayface.errors import RayfaceError
from rayface.imaging.codec import encode
from rayface.pipeline import choose_swap_detector, default_models, load_step
from rayface.stages import detect_faces, judge_swaps
from rayface.store import ModelStore
from rayface.work import Params, Photo
from serve.app import resolve_models
from serve.ingress import swaps_told
from serve.settings import Settings
from serve.together import Together
from tests.scenes import scene
from tests.serve.in_process import InProcess, served
from tests.tiny_models import save_tiny_models


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return save_tiny_models(tmp_path_factory.mktemp("store"), ("enhancement", "parsing", "swap_detection"))


def test_every_face_is_judged_in_one_replica(store: ModelStore, face_png: bytes) -> None:
    settings = Settings(store=store.uri, steps=("enhance",))
    refs = resolve_models(settings)
    assert refs["detect_swap"] == "swap_detection@1"

    async def run() -> None:
        replica = Together(settings, refs, 256, "")
        await replica.reconfigure({})
        told = swaps_told(await replica.detect_swap(face_png))
        assert told["models"] == {"detect": "detection@r1", "detect_swap": "swap_detection@1"}
        assert told["threshold"] == 0.5
        (face,) = told["faces"]
        assert 0 <= face["swapped"] <= 1
        assert {"box", "landmarks", "score", "size"} < face.keys()
        found = swaps_told(await replica.detect_swap(encode(torch.full((3, 64, 64), 127, dtype=torch.uint8))))
        assert found["faces"] == []
        assert (await replica.serving())["detect_swap"] == {"model": "swap_detection@1", "refused": ""}

    asyncio.run(run())


def test_photos_judged_together_get_what_they_get_alone(store: ModelStore) -> None:
    detector, judge = load_step(store, "detection@r1"), load_step(store, "swap_detection")
    photos = [Photo.of(picture) for picture in (scene(0), torch.zeros(3, 64, 64, dtype=torch.uint8), scene(1))]
    works = detect_faces(detector, photos, [Params()] * 3, 32)
    together = judge_swaps(judge, works)
    alone = [judge_swaps(judge, [work])[0] for work in works]
    for ours, theirs in zip(together, alone, strict=True):
        assert [face.swapped for face in ours.faces] == [face.swapped for face in theirs.faces]
        assert all(face.swapped is not None for face in ours.faces)
        assert ours.models["detect_swap"] == "swap_detection@1"


def test_over_http(store: ModelStore, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(scene(0), "png"))
    service = InProcess(store, Settings(store=store.uri, steps=("enhance",)))
    with served(service) as address, Client(address) as client:
        told = client.detect_swap(photo)
        assert told["models"]["detect_swap"] == "swap_detection@1"
        assert [set(face) for face in told["faces"]] == [{"box", "landmarks", "score", "size", "swapped"}]
        uses = {model["use"]: model["version"] for model in client.models()}
        assert uses["detect_swap"] == "1"


def test_without_a_model_it_is_not_served(tiny_store: ModelStore, face_png: bytes) -> None:
    settings = Settings(store=tiny_store.uri, steps=("enhance",), allowed_licences=("Apache-2.0", "MIT"))
    service = InProcess(tiny_store, settings)
    with served(service) as address, Client(address) as client, pytest.raises(ServiceError, match="404 not-served"):
        client.detect_swap(face_png)


def test_which_model_is_chosen(store: ModelStore) -> None:
    assert choose_swap_detector(store, {}) == "swap_detection"
    assert choose_swap_detector(store, {"detect_swap": "swap_detection@1"}) == "swap_detection@1"
    assert choose_swap_detector(store, {}, ("MIT",)) == ""
    with pytest.raises(RayfaceError, match="offers the step 'enhance'"):
        choose_swap_detector(store, {"detect_swap": "enhancement@1"})
    named = Settings(store=store.uri, steps=("enhance",), models={"detect_swap": "swap_detection@1"})
    assert resolve_models(named)["detect_swap"] == "swap_detection@1"
    assert "detect_swap" not in resolve_models(Settings(store=store.uri, steps=("upscale",)))


def test_it_is_no_step_of_a_request() -> None:
    with pytest.raises(RayfaceError, match="Unknown step 'detect_swap'"):
        default_models(["detect_swap"])
