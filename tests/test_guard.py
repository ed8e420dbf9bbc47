"""The identity guard: the release's recogniser on drawn faces."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from rayface.errors import RayfaceError
from rayface.guard import VIEW, Guard, blend, choose_guard, guard_faces
from rayface.pipeline import Pipeline
from rayface.stages import CROP_SIZE, FORWARD_FACES, detect_faces
from rayface.store import RELEASE_WEIGHTS, ModelStore
from rayface.work import Params, Photo, Work
from tests.scenes import scene
from tests.tiny_models import save_tiny_models

RELEASE = ModelStore(RELEASE_WEIGHTS)


class Stranger:
    """A step that shows somebody else."""

    name, size, sharpens, model = "stranger", CROP_SIZE, False, "stranger@1"

    def __init__(self, face: np.ndarray) -> None:
        self.face = torch.from_numpy(face.copy())

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        return self.face.expand_as(crops).clone()


class Swapper(Stranger):
    """Does so on purpose."""

    name, model = "swap", "swap@1"
    keeps_identity = False


class Brighten(Stranger):
    """A step that only makes faces brighter."""

    name, model = "brighten", "brighten@1"

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        return (crops.float() + 20).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard.load(RELEASE, "recognition")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, guard: Guard) -> Pipeline:
    made = Pipeline.from_store(save_tiny_models(tmp_path_factory.mktemp("store")))
    assert made.guard is not None
    assert (made.guard.model, made.guard.threshold, made.guard.action) == (guard.model, guard.threshold, "blend")
    other = works_of(made, [2])[0].crops[0]
    steps = {"stranger": Stranger(other), "swap": Swapper(other), "brighten": Brighten(other)}
    return Pipeline(made.detector, {**made.steps, **steps}, made.parser, guard=guard)


def works_of(pipeline: Pipeline, scenes: list[int]) -> list[Work]:
    """The detected faces of drawn photos."""
    photos = [Photo.of(scene(index)) for index in scenes]
    assert pipeline.detector is not None
    return detect_faces(pipeline.detector, photos, [Params()] * len(photos), 4)


def changed(work: Work, crops: np.ndarray, **values: Any) -> Work:
    """`work` after a step `x` made `crops` of its faces; read-only, as it comes from Ray."""
    faces = [dataclasses.replace(face, steps=["x"]) for face in work.faces]
    crops.flags.writeable = work.before.flags.writeable = False
    return dataclasses.replace(work, crops=crops, faces=faces, changed=np.ones(len(faces), bool), **values)


def test_what_keeps_the_person_is_let_through_and_measured(pipeline: Pipeline, guard: Guard) -> None:
    off = Pipeline(pipeline.detector, pipeline.steps, pipeline.parser)
    for step in ("brighten", "enhance"):
        result = pipeline.process(scene(0), [step])
        assert torch.equal(result.photo, off.process(scene(0), [step]).photo)
        (face,) = result.report.faces
        assert face.similarity is not None
        assert guard.threshold <= face.similarity <= 1
        assert (face.steps, face.kept) == ([step], 1)
        assert result.report.models["identify"] == guard.model
        assert "identify" in result.report.timings_ms
        assert result.report.notes == []
        assert json.loads(json.dumps(dataclasses.asdict(result.report)))["faces"][0]["similarity"] == face.similarity
    (unseen,) = off.process(scene(0), ["brighten"]).report.faces
    assert (unseen.similarity, unseen.kept) == (None, 1)


def test_half_a_stranger_is_blended_back_as_far_as_it_must(pipeline: Pipeline, guard: Guard) -> None:
    (work,) = works_of(pipeline, [0])
    stranger = pipeline.steps["stranger"].face.float().numpy()[None]
    half = np.rint((stranger + work.before) / 2).astype(np.uint8)
    (guarded,) = guard_faces(guard, [changed(work, half)])
    (face,) = guarded.faces
    assert face.similarity is not None
    assert face.similarity < guard.threshold
    assert 0.5 <= face.kept < 1
    before, after = torch.from_numpy(work.before.copy()), torch.from_numpy(half.copy())
    kept = torch.tensor([face.kept])
    assert np.array_equal(guarded.crops, blend(before, after, kept).numpy())
    assert guarded.changed.tolist() == [True]

    def passes(share: float) -> bool:
        crops = blend(before, after, torch.tensor([share]))
        return bool(cosine_similarity(guard.embed(before), guard.embed(crops))[0] >= guard.threshold)

    assert passes(face.kept)
    assert not passes(face.kept + 1 / 16), "more could have been kept"
    report = pipeline.process(scene(0), ["stranger"], {"strength": 0.5}).report
    assert (report.changed, report.faces[0].kept, report.faces[0].steps) == (1, face.kept, ["stranger"])
    assert report.notes == [
        "Identity: of 1 face only a part of the change was kept; with all of it the recogniser no longer saw the same "
        f"person (similarity below {guard.threshold:g})."
    ]


def test_a_stranger_of_whom_not_half_passes_is_left_out(pipeline: Pipeline, guard: Guard) -> None:
    skipping = Guard.load(RELEASE, "recognition", "skip")
    for one in (skipping, guard):
        made = Pipeline(pipeline.detector, pipeline.steps, pipeline.parser, guard=one)
        result = made.process(scene(0), ["stranger"])
        assert torch.equal(result.photo, scene(0))
        (face,) = result.report.faces
        assert (face.steps, face.kept) == ([], 0)
        alike = f"similarity {face.similarity:.3f}, below {one.threshold:g}"
        reason = f"identity: the recogniser no longer saw the same person ({alike})"
        assert face.skipped == [{"step": "stranger", "reason": reason}]
        assert result.report.notes == ["No face was changed; the photo is unchanged."]
    both = Pipeline(pipeline.detector, pipeline.steps, pipeline.parser, guard=skipping)
    (face,) = both.process(scene(0), ["brighten", "stranger"]).report.faces
    assert [skipped["step"] for skipped in face.skipped] == ["brighten", "stranger"], "all that made the face is gone"


def test_a_step_may_change_who_is_seen_on_purpose(pipeline: Pipeline, guard: Guard) -> None:
    asked = Params(donor=np.zeros((3, 64, 64), np.uint8), consent=True)
    result = pipeline.process(scene(0), ["swap"], asked)
    off = Pipeline(pipeline.detector, pipeline.steps, pipeline.parser)
    assert torch.equal(result.photo, off.process(scene(0), ["swap"], asked).photo)
    (face,) = result.report.faces
    assert face.similarity is not None
    assert face.similarity < guard.threshold
    assert (face.steps, face.kept) == (["swap"], 1)


def test_common_batches_give_what_each_photo_alone_gives(pipeline: Pipeline, guard: Guard) -> None:
    """Works with no face, with a face that no step changed, and with others; the input is not written to."""
    stranger = pipeline.steps["stranger"].face.numpy()[None]
    first, second, third = works_of(pipeline, [0, 1, 3])
    none = works_of(pipeline, [0])[0]
    none = dataclasses.replace(none, before=none.before[:0], crops=none.crops[:0], faces=[], changed=np.zeros(0, bool))
    works = [
        changed(first, np.rint((stranger.astype(np.float32) + first.before) / 2).astype(np.uint8)),
        none,
        second,
        changed(third, np.minimum(third.crops, 235) + np.uint8(20), keep_identity=False),
    ]
    kept = [work.crops.copy() for work in works]
    together = guard_faces(guard, works)
    for work, crops, result in zip(works, kept, together, strict=True):
        (alone,) = guard_faces(guard, [work])
        assert np.array_equal(result.crops, alone.crops)
        assert result.faces == alone.faces
        assert result.changed.tolist() == alone.changed.tolist()
        assert np.array_equal(work.crops, crops)
        assert result.models["identify"] == guard.model
    assert [face.similarity for face in together[2].faces] == [None] * len(second.faces)
    assert (together[0].faces[0].kept, together[3].faces[0].kept) == (pytest.approx(0.75, abs=0.2), 1)


def test_photos_without_a_changed_face_cost_nothing(pipeline: Pipeline, guard: Guard) -> None:
    seen = []
    handle = guard.recogniser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    nothing = pipeline.process(torch.full((3, 90, 160), 128, dtype=torch.uint8), ["brighten"])
    same = pipeline.process(scene(0), ["brighten"], {"strength": 0})
    assert seen == []
    assert nothing.report.notes == ["No face was found; the photo is unchanged."]
    assert torch.equal(same.photo, scene(0))
    pipeline.process(scene(0), ["brighten"])
    handle.remove()
    assert FORWARD_FACES["cpu"] == 1
    assert seen == [(1, 3, VIEW, VIEW)] * 2, "the face before and after, one at a time on a CPU"


def test_blur_is_no_other_person(pipeline: Pipeline, guard: Guard) -> None:
    """A blurred face and the sharp one pass in the small view; as they are, they are less alike."""
    sharp = torch.from_numpy(works_of(pipeline, [0])[0].crops.copy())
    small = interpolate(sharp.float(), (32, 32), mode="bicubic", antialias=True)
    blurred = interpolate(small, (256, 256), mode="bicubic").round().clamp(0, 255).to(torch.uint8)
    seen = cosine_similarity(guard.embed(blurred), guard.embed(sharp))
    whole = cosine_similarity(*(guard.recogniser(crops.float() / 127.5 - 1) for crops in (blurred, sharp)))
    assert seen >= guard.threshold
    assert 1 - whole > 1.5 * (1 - seen)


def folder_store(tmp_path: Path, **info: Any) -> ModelStore:
    """A store that holds the release's recogniser with other statements in its config.json, and no more."""
    folder = tmp_path / "own" / "recognition" / "1"
    held = RELEASE.versions("recognition")[-1]
    shutil.copytree(RELEASE_WEIGHTS / "recognition" / held, folder)
    stated = json.loads((folder / "config.json").read_text()) | {"version": "1"} | info
    (folder / "config.json").write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
    return ModelStore(tmp_path / "own")


def test_a_store_without_a_usable_recogniser_is_no_failure(tmp_path: Path) -> None:
    empty = ModelStore(tmp_path / "empty")
    ref, why = choose_guard(empty, {}, "blend", None)
    assert (ref, why) == ("", "Identity was not checked: there is no recognition model.")
    only = ModelStore(RELEASE_WEIGHTS, commercial_only=True)
    refused = "Identity was not checked: the terms of the recognition model do not allow its use here."
    assert choose_guard(only, {}, "blend", None) == ("", refused)
    _, why = choose_guard(RELEASE, {}, "blend", None, ["MIT"])
    assert why.endswith("has a licence that settings.allowed_licences does not allow.")
    unstated = folder_store(tmp_path, cosines=None)
    assert "recognition@1 does not state" in choose_guard(unstated, {}, "blend", None)[1]
    assert choose_guard(unstated, {}, "blend", 0.97) == ("recognition", "")
    assert Guard.load(unstated, "recognition", threshold=0.97).threshold == 0.97
    assert choose_guard(RELEASE, {}, "off", None) == ("", ""), "who switches it off needs no note"


def test_the_report_says_why_identity_was_not_checked(pipeline: Pipeline) -> None:
    made = Pipeline(pipeline.detector, pipeline.steps, pipeline.parser, unguarded="Identity was not checked: x.")
    assert made.process(scene(0), ["brighten"]).report.notes == ["Identity was not checked: x."]
    unchanged = made.process(scene(0), ["brighten"], {"strength": 0}).report.notes
    assert unchanged == ["No face was changed; the photo is unchanged."]


def test_a_recogniser_that_is_named_must_be_usable(tmp_path: Path) -> None:
    assert choose_guard(RELEASE, {"identify": "recognition"}, "skip", None) == ("recognition", "")
    only = ModelStore(RELEASE_WEIGHTS, commercial_only=True)
    for store, models, message in (
        (RELEASE, {"identify": "recognition@99"}, "no model 'recognition@99'"),
        (RELEASE, {"identify": "parsing"}, "parsing cannot be the model of 'identify': it is of system 'parsing'"),
        (only, {"identify": "recognition"}, "is refused"),
    ):
        with pytest.raises(RayfaceError, match=message):
            choose_guard(store, models, "blend", None)
    with pytest.raises(RayfaceError, match="'identify' is not in use, as identity_guard is off"):
        choose_guard(RELEASE, {"identify": "recognition"}, "off", None)
    with pytest.raises(RayfaceError, match="'identify' is not in use; in use are upscale"):
        Pipeline.from_store(RELEASE, ["upscale"], {"identify": "recognition"})


def test_settings_reach_the_guard(tmp_path: Path) -> None:
    store = save_tiny_models(tmp_path)
    made = Pipeline.from_store(store, identity_guard="skip", similarity_threshold=0.9)
    assert made.guard is not None
    assert (made.guard.action, made.guard.threshold) == ("skip", 0.9)
    assert Pipeline.from_store(store, identity_guard="off").guard is None
    assert Pipeline.from_store(store, ["upscale"]).guard is None
    with pytest.raises(RayfaceError, match="identity_guard is 'warn'; give one of: blend, skip, off"):
        Pipeline.from_store(store, identity_guard="warn")
    for wrong in (1.5, float("nan")):
        with pytest.raises(RayfaceError, match=r"similarity_threshold is .*give a cosine from -1 to 1"):
            Pipeline.from_store(store, similarity_threshold=wrong)


def test_rayface_apply_takes_the_settings(tmp_path: Path) -> None:
    from rayface.apply import apply_steps
    from rayface.imaging.codec import encode

    store = save_tiny_models(tmp_path / "store")
    (tmp_path / "in.png").write_bytes(encode(scene(0), "png"))
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    (report,) = apply_steps(["enhance"], source, target, store)["photos"]
    assert report["faces"][0]["similarity"] > 0.98
    options = ["identity_guard=skip", "similarity_threshold=1"]
    (report,) = apply_steps(["enhance"], source, target, store, options)["photos"]
    assert (report["changed"], report["faces"][0]["kept"]) == (0, 0)
    (report,) = apply_steps(["enhance"], source, target, store, ["identity_guard=off"])["photos"]
    assert report["faces"][0]["similarity"] is None
    boxes = ["faces=boxes", "boxes=0,0,4,4"]
    (report,) = apply_steps(["enhance"], source, target, store, boxes)["photos"]
    assert report["notes"][0] == "No face was found whose middle lies in the box 0,0,4,4."
    for wrong, message in ((["similarity_threshold=much"], "'much'; give a cosine"), (["identity_guard=x"], "'x'")):
        with pytest.raises(RayfaceError, match=message):
            apply_steps(["enhance"], source, target, store, wrong)
