"""The stages of a request in one process, with the real detector, tiny models and drawn photos."""

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
from torch.nn.functional import avg_pool2d, interpolate

from rayface.errors import RayfaceError
from rayface.pipeline import Pipeline
from rayface.stages import CROP_SIZE, detect_faces, enlarge, fuse, parse_faces, run_step
from rayface.store import ModelStore
from rayface.work import FaceReport, Params, Photo, Work, check_asked, check_params, parse_boxes
from tests.scenes import scene
from tests.tiny_models import save_tiny_models


class Blur:
    """A step that makes faces less sharp; what a sharpening step must not do."""

    size = CROP_SIZE
    model = "blur@1"

    def __init__(self, name: str = "blur", sharpens: bool = False) -> None:
        self.name, self.sharpens = name, sharpens

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        return interpolate(avg_pool2d(crops.float(), 8), scale_factor=8.0, mode="bilinear").to(torch.uint8)


class Brighten:
    """A step at a size of its own that adds 20 to every pixel."""

    name, sharpens, model = "brighten", False, "brighten@1"

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        self.seen.append(tuple(crops.shape))
        return (crops.float() + 20).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return save_tiny_models(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def pipeline(store: ModelStore) -> Pipeline:
    """The store's enhancer and parser, and beside them steps whose effect is known."""
    made = Pipeline.from_store(store, ["enhance", "upscale"])
    steps = {
        **made.steps,
        "blur": Blur(),
        "sharpen": Blur("sharpen", sharpens=True),
        "brighten": Brighten(64),
    }
    return Pipeline(made.detector, steps, made.parser, max_faces=8)


def test_process_changes_faces_and_reports(pipeline: Pipeline) -> None:
    photo = scene(0)
    kept = photo.clone()
    result = pipeline.process(photo, ["brighten"])
    assert torch.equal(photo, kept), "the input was written to"
    assert result.photo.shape == photo.shape
    assert result.photo.dtype == torch.uint8
    report = result.report
    assert report.changed == len(report.faces) == 1
    face = report.faces[0]
    assert (face.steps, face.skipped) == (["brighten"], [])
    left, top, right, bottom = (round(value) for value in face.box)
    difference = (result.photo.float() - photo.float())[:, top:bottom, left:right]
    assert difference.max() > 5
    # The face's own square, grown by half, bounds everything that may change.
    outside = torch.ones(photo.shape[1:], dtype=torch.bool)
    x, y = (left + right) // 2, (top + bottom) // 2
    reach = round(face.size * 0.75)
    outside[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = False
    assert outside.any()
    assert torch.equal(result.photo[:, outside], photo[:, outside])
    assert set(report.timings_ms) == {"detect", "brighten", "parse", "fuse"}
    assert report.models["parse"] == "parsing@1"
    assert report.models["brighten"] == "brighten@1"
    assert json.loads(json.dumps(dataclasses.asdict(report)))["faces"][0]["size"] == face.size


def test_the_stores_enhancer_sharpens_a_face(pipeline: Pipeline) -> None:
    from rayface.imaging.paste import sharpness

    result = pipeline.process(scene(0), ["enhance"])
    assert result.report.models["enhance"] == "enhancement@1"
    face = result.report.faces[0]
    assert (face.steps, face.skipped) == (["enhance"], [])
    left, top, right, bottom = (round(value) for value in face.box)
    faces = [photo[None, :, top:bottom, left:right] for photo in (scene(0), result.photo)]
    assert sharpness(faces[1]) > sharpness(faces[0])


def test_a_photo_without_faces_comes_back_unchanged(pipeline: Pipeline) -> None:
    photo = torch.full((3, 90, 160), 128, dtype=torch.uint8)
    result = pipeline.process(photo, ["enhance", "brighten"])
    assert torch.equal(result.photo, photo)
    assert (result.report.faces, result.report.changed) == ([], 0)
    assert result.report.notes == ["No face was found; the photo is unchanged."]


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (150, 90)])
@pytest.mark.parametrize("faces", ["all", "largest", "boxes"])
def test_without_faces_every_pixel_of_any_photo_stays(pipeline: Pipeline, size: tuple[int, int], faces: str) -> None:
    photo = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = {"boxes": "0,0,90,90"} if faces == "boxes" else {}
    result = pipeline.process(photo, ["enhance", "brighten"], {"faces": faces, **boxes})
    assert torch.equal(result.photo, photo)
    assert (result.report.faces, result.report.changed) == ([], 0)
    assert result.report.notes[-1] == "No face was found; the photo is unchanged."


def test_a_sharpening_step_that_blurs_is_left_out_and_reported(pipeline: Pipeline) -> None:
    photo = scene(0)
    result = pipeline.process(photo, ["sharpen"])
    assert torch.equal(result.photo, photo)
    assert result.report.faces[0].steps == []
    assert result.report.faces[0].skipped == [
        {"step": "sharpen", "reason": "the face is already sharper than the step's output"}
    ]
    assert result.report.notes == ["No face was changed; the photo is unchanged."]
    # The same network as an ordinary step is applied.
    assert pipeline.process(photo, ["blur"]).report.faces[0].steps == ["blur"]
    # A step that is left out does not stop the next one.
    chain = pipeline.process(photo, ["sharpen", "brighten"]).report
    assert chain.faces[0].steps == ["brighten"]
    assert chain.changed == 1


def test_a_sharpening_step_does_not_shift_colours(pipeline: Pipeline) -> None:
    class Drifting(Blur):
        """Sharpens, and turns the face red on the way."""

        def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
            sharp = 2 * crops.float() - super().__call__(crops, params).float()
            sharp[:, 0] += 30
            return sharp.clamp(0, 255).to(torch.uint8)

    photo = scene(0)
    shifts = []
    for sharpens in (False, True):
        drifting = Pipeline(pipeline.detector, {"x": Drifting("x", sharpens)}, pipeline.parser)
        result = drifting.process(photo, ["x"])
        assert result.report.changed == 1
        difference = result.photo.float() - photo.float()
        shifts.append(float(difference[0].sum() / difference[0].ne(0).sum()))
    assert shifts[0] > 10
    assert abs(shifts[1]) < 1


def test_strength_blends_and_0_leaves_the_photo(pipeline: Pipeline) -> None:
    photo = scene(0)
    nothing = pipeline.process(photo, ["brighten"], {"strength": 0})
    assert torch.equal(nothing.photo, photo)
    assert nothing.report.faces[0].skipped == [{"step": "brighten", "reason": "strength is 0"}]
    full = (pipeline.process(photo, ["brighten"]).photo.float() - photo).sum()
    half = (pipeline.process(photo, ["brighten"], {"strength": "0.5"}).photo.float() - photo).sum()
    assert 0.4 * full < half < 0.6 * full


def test_a_smaller_native_size_keeps_the_crops_detail() -> None:
    """Brightening at 64 px adds the same 20 to a 256-px crop as at 256 px: only the change is resized."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 230, (2, 3, CROP_SIZE, CROP_SIZE), dtype=np.uint8)
    work = works_of(crops)
    step = Brighten(64)
    (after,) = run_step(step, [work], [Params()])
    assert step.seen == [(1, 3, 64, 64)] * 2, "one face a call on the CPU"
    assert np.array_equal(after.crops, crops + 20)
    assert np.array_equal(work.crops, crops), "the input was written to"


def works_of(crops: np.ndarray) -> Work:
    """A work as it arrives from Ray: read-only arrays."""
    crops.flags.writeable = False
    count = len(crops)
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1))
    matrices.flags.writeable = False
    faces = [FaceReport([0, 0, 1, 1], [], 1.0, 256.0) for _ in range(count)]
    return Work(CROP_SIZE, CROP_SIZE, crops, crops, matrices, faces, [], np.zeros(count, bool))


def test_common_batches_give_what_each_photo_alone_gives(pipeline: Pipeline) -> None:
    """Read-only works with 0, 1 and 19 faces (one forward holds 16), of which one has its own strength."""
    rng = np.random.default_rng(1)
    small = rng.integers(0, 255, (20, 3, 16, 16), dtype=np.uint8)
    crops = small.repeat(16, 2).repeat(16, 3)
    works = [works_of(part.copy()) for part in (crops[:0], crops[:1], crops[1:])]
    params = [Params(), Params(0.5), Params()]
    for name in ("enhance", "brighten"):
        step = pipeline.steps[name]
        together = parse_faces(pipeline.parser, run_step(step, works, params))
        for index, work in enumerate(works):
            alone = parse_faces(pipeline.parser, run_step(step, [work], [params[index]]))[0]
            assert np.array_equal(together[index].crops, alone.crops)
            assert np.array_equal(together[index].masks, alone.masks)  # type: ignore[arg-type]
            assert together[index].faces == alone.faces


def test_the_largest_face_or_at_most_max_faces(pipeline: Pipeline) -> None:
    photo = scene(1, faces=2)
    both = pipeline.process(photo, ["brighten"]).report
    assert both.changed == len(both.faces) == 2
    sizes = sorted(face.size for face in both.faces)
    largest = pipeline.process(photo, ["brighten"], {"faces": "largest"}).report
    assert [(face.size, face.steps) for face in largest.faces] == [(sizes[1], ["brighten"]), (sizes[0], [])]
    assert largest.faces[1].skipped == [{"step": "all", "reason": "not the largest face"}]
    (work,) = detect_faces(pipeline.detector, [Photo.of(photo)], [Params()], max_faces=1)
    assert len(work.faces) == len(work.crops) == 1
    assert work.others[0].skipped == [{"step": "all", "reason": "more than 1 faces in the photo"}]


def test_faces_whose_middle_lies_in_a_box(pipeline: Pipeline) -> None:
    photo = scene(1, faces=2)
    first, second = (face.box for face in pipeline.process(photo, ["brighten"]).report.faces)
    text = ",".join(map(str, second))
    report = pipeline.process(photo, ["brighten"], {"faces": "boxes", "boxes": text}).report
    assert [(face.box, face.steps) for face in report.faces] == [(second, ["brighten"]), (first, [])]
    assert report.faces[1].skipped == [{"step": "all", "reason": "not in the boxes"}]
    assert (report.changed, report.notes) == (1, [])
    # Once more in the enlarged photo, where the same boxes of the photo as it came choose the same faces.
    large = pipeline.process(photo, ["upscale", "brighten"], {"faces": "boxes", "boxes": text}).report
    assert large.faces[0].steps == ["brighten"]
    assert all(face.steps == [] for face in large.faces[1:])
    assert large.faces[0].box == pytest.approx([2 * value for value in second], abs=12)
    everything = pipeline.process(photo, ["brighten"], {"faces": "boxes", "boxes": [[0, 0, 320, 240]]}).report
    assert everything.changed == 2


def test_a_box_without_a_face_is_noted(pipeline: Pipeline) -> None:
    photo, request = scene(0), {"faces": "boxes", "boxes": "0,0,4,4;-8,2,1.5,9"}
    result = pipeline.process(photo, ["brighten"], request)
    assert torch.equal(result.photo, photo)
    assert result.report.notes == [
        "No face was found whose middle lies in the box 0,0,4,4.",
        "No face was found whose middle lies in the box -8,2,1.5,9.",
        "No face was changed; the photo is unchanged.",
    ]
    empty = pipeline.process(torch.zeros(3, 60, 80, dtype=torch.uint8), ["brighten"], request).report
    assert len(empty.notes) == 3


def test_of_the_faces_in_boxes_the_largest_max_faces_are_processed(pipeline: Pipeline) -> None:
    photo = scene(1, faces=2)
    sizes = sorted(face.size for face in pipeline.process(photo, ["brighten"]).report.faces)
    params = Params(faces="boxes", boxes=((0, 0, 320, 240),))
    (work,) = detect_faces(pipeline.detector, [Photo.of(photo)], [params], max_faces=1)  # type: ignore[arg-type]
    assert [face.size for face in work.faces] == sizes[1:]
    assert work.others[0].skipped == [{"step": "all", "reason": "more than 1 faces in the photo"}]


def test_detecting_several_photos_together(pipeline: Pipeline) -> None:
    photos = [scene(0), torch.zeros(3, 60, 80, dtype=torch.uint8), scene(2)]
    works = detect_faces(pipeline.detector, [Photo.of(photo) for photo in photos], [Params()] * 3, max_faces=4)
    assert [len(work.faces) for work in works] == [1, 0, 1]
    for photo, work in zip(photos, works, strict=True):
        (alone,) = detect_faces(pipeline.detector, [Photo.of(photo)], [Params()], max_faces=4)
        assert (work.height, work.width) == photo.shape[1:]
        assert np.array_equal(work.crops, alone.crops)


def test_parse_every_face(pipeline: Pipeline) -> None:
    (work,) = detect_faces(pipeline.detector, [Photo.of(scene(0))], [Params()], max_faces=4)
    (unchanged,) = parse_faces(pipeline.parser, [work])
    (parsed,) = parse_faces(pipeline.parser, [work], [True])
    assert unchanged.masks is not None
    assert parsed.masks is not None
    assert unchanged.masks.max() == 0
    assert parsed.masks.shape == (1, CROP_SIZE, CROP_SIZE)
    assert parsed.masks.max() > 0
    assert fuse(Photo.of(scene(0)), unchanged, ["x"]).report.steps == ["x"]


@pytest.mark.parametrize(
    ("steps", "params", "message"),
    [
        (["beautify"], {}, "'beautify'; known steps: .*brighten.*enhance"),
        ([], {}, "No step is given; known steps"),
        (["enhance", "enhance"], {}, "'enhance' is given twice"),
        (["enhance"], {"strengh": 1}, "'strengh'; known: strength, faces"),
        (["enhance"], {"strength": 1.5}, "strength is 1.5"),
        (["enhance"], {"strength": float("nan")}, "strength is nan"),
        (["enhance"], {"strength": "much"}, "strength is 'much'"),
        (["enhance"], {"strength": None}, "strength is None"),
        (["enhance"], {"faces": "two"}, "faces is 'two'.*all, largest"),
        (["enhance"], {"faces": "boxes"}, "no boxes are given; give boxes=x0"),
        (["enhance"], {"boxes": "1,2,3,4"}, "boxes are given and faces is 'all'"),
        (["enhance"], {"faces": "boxes", "boxes": "1,2,3"}, "boxes: '1,2,3' is not four numbers; give boxes=x0"),
        (["enhance"], {"faces": "boxes", "boxes": "1,2,3,4;a,b,c,d"}, "'a,b,c,d' is not four numbers"),
        (["enhance"], {"faces": "boxes", "boxes": [7]}, "7 is not four numbers"),
        (["enhance"], {"faces": "boxes", "boxes": 7}, "7 is not four numbers"),
        (["enhance"], {"faces": "boxes", "boxes": "9,2,3,4"}, "boxes: 9,2,3,4 is empty; x1 must be above x0"),
        (["enhance"], {"faces": "boxes", "boxes": "1,2,nan,4"}, "1,2,nan,4 has a value that is not a finite number"),
        (["upscale"], {"scale": "3"}, "scale is 3; give one of: 2, 4"),
        (["upscale"], {"scale": "twice"}, "scale is 'twice'"),
        (["upscale"], {"scale": 2.9}, "scale is 2.9; give a whole number"),
        (["enhance"], {"strength": True}, "strength is True; give a number"),
        (["enhance"], {"style": "mullet"}, "style is 'mullet'; give one of: none, stubble, moustache, goatee, full"),
    ],
)
def test_wrong_requests_name_the_way_out(
    pipeline: Pipeline, steps: list[str], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(RayfaceError, match=message):
        pipeline.process(torch.zeros(3, 32, 32, dtype=torch.uint8), steps, params)


def test_params_from_text() -> None:
    assert check_params({"strength": "0.25", "faces": "largest"}) == Params(0.25, "largest")
    assert check_params({"scale": "4"}) == Params(scale=4)
    assert check_params({}) == Params(1.0, "all", 2)
    check_asked(["enhance"], Params())
    check_asked(["facial_hair"], Params(style="none"))
    check_asked(["edit_attributes"], Params(remove=("Eyeglasses",)))
    with pytest.raises(RayfaceError, match="edit_attributes needs attributes: give add or remove"):
        check_asked(["edit_attributes"], Params(style="full"))
    with pytest.raises(RayfaceError, match="facial_hair needs a style: give style, one of: none, stubble"):
        check_asked(["enhance", "facial_hair"], Params())
    boxes = check_params({"faces": "boxes", "boxes": "1,2,3,4; 5,6.5,7,8;"})
    assert boxes == Params(faces="boxes", boxes=((1, 2, 3, 4), (5, 6.5, 7, 8)))
    assert parse_boxes("") == ()


@pytest.mark.parametrize("scale", [2, 4])
def test_upscale_alone_is_about_no_faces(pipeline: Pipeline, scale: int) -> None:
    photo = scene(0)
    result = pipeline.process(photo, ["upscale"], {"scale": scale})
    assert result.photo.shape == (3, 240 * scale, 320 * scale)
    assert torch.equal(result.photo, pipeline.steps["upscale"](photo, scale))
    report = result.report
    assert (report.width, report.height) == (320 * scale, 240 * scale)
    assert (report.input_width, report.input_height) == (320, 240)
    assert (report.faces, report.changed, report.notes) == ([], 0, [])
    assert set(report.timings_ms) == {"upscale", "fuse"}
    assert report.models == {"upscale": "super_resolution@1"}


def test_faces_are_changed_in_the_upscaled_photo(pipeline: Pipeline) -> None:
    """Fused at the result's resolution (C9), in whatever order the steps are given, and upscaled only once."""
    photo = scene(0)
    large = pipeline.process(photo, ["upscale"]).photo
    result = pipeline.process(photo, ["brighten", "upscale"])
    assert torch.equal(result.photo, pipeline.process(photo, ["upscale", "brighten"]).photo)
    assert torch.equal(result.photo, pipeline.process(large, ["brighten"]).photo)
    (face,) = result.report.faces
    (small,) = pipeline.process(photo, ["brighten"]).report.faces
    assert face.steps == ["brighten"]
    assert face.size == pytest.approx(2 * small.size, rel=0.1)
    left, top, right, bottom = (round(value) for value in face.box)
    assert (result.photo.float() - large.float())[:, top:bottom, left:right].mean() > 5
    assert set(result.report.timings_ms) == {"upscale", "detect", "brighten", "parse", "fuse"}
    nothing = pipeline.process(torch.full((3, 90, 160), 128, dtype=torch.uint8), ["upscale", "enhance"])
    assert nothing.report.notes == ["No face was found; the photo is upscaled, nothing else."]


def test_what_would_become_too_large_is_upscaled_less_or_not_and_reported(pipeline: Pipeline) -> None:
    photo = Photo.of(scene(0))  # 0.0768 megapixels
    step = pipeline.steps["upscale"]
    half = enlarge(step, photo, Params(scale=4), max_megapixels=1.0)
    assert half.pixels.shape == (3, 480, 640)
    assert half.notes == [
        "upscale x4 of 320 x 240 pixels is more than this model or the limit of 1 megapixels (max_output_megapixels) "
        "allows; x2 was done."
    ]
    kept = enlarge(step, photo, Params(scale=2), max_megapixels=0.3)
    assert np.array_equal(kept.pixels, photo.pixels)
    assert kept.notes[0].endswith("the photo keeps its size.")
    limited = Pipeline(pipeline.detector, pipeline.steps, pipeline.parser, max_output_megapixels=0.3)
    assert limited.process(scene(0), ["upscale"]).report.notes == kept.notes
    assert enlarge(step, photo, Params(scale=2), max_megapixels=0.3072).pixels.shape == (3, 480, 640)


def test_photo_steps_need_neither_detector_nor_parser(store: ModelStore, pipeline: Pipeline, tmp_path: Path) -> None:
    """So a store of nothing but the upscaler serves it, and terms of models that are not used refuse nothing."""
    alone = ModelStore(shutil.copytree(Path(store.uri) / "super_resolution", tmp_path / "super_resolution").parent)
    upscaling = Pipeline.from_store(alone, ["upscale"])
    assert (upscaling.detector, upscaling.parser, list(upscaling.steps)) == (None, None, ["upscale"])
    result = upscaling.process(scene(0), ["upscale"])
    assert torch.equal(result.photo, pipeline.process(scene(0), ["upscale"]).photo)
    with pytest.raises(RayfaceError, match="no model 'enhancement'"):
        Pipeline.from_store(alone, ["upscale", "enhance"])
    with pytest.raises(RayfaceError, match="'parse' is not in use; in use are upscale"):
        Pipeline.from_store(alone, ["upscale"], {"parse": "parsing"})


def test_a_larger_step_gets_crops_of_its_own_size(pipeline: Pipeline) -> None:
    """Of a face of more pixels than CROP_SIZE it sees all of them, and its output is pasted back in full."""
    fine = torch.randint(0, 180, (3, 960, 1280), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    large = interpolate(scene(0)[None].float(), scale_factor=4, mode="bicubic").clamp(0, 255).to(torch.uint8)[0]
    photo = (0.7 * large + 0.3 * fine).to(torch.uint8)
    seen = {}
    for size in (64, CROP_SIZE, 448):
        step = Brighten(size)
        one = Pipeline(pipeline.detector, {"brighten": step, "upscale": pipeline.steps["upscale"]}, pipeline.parser)
        result = one.process(photo, ["brighten"])
        assert step.seen == [(1, 3, size, size)]
        assert one.crop_size == max(CROP_SIZE, size)
        assert result.report.changed == 1
        (work,) = detect_faces(one.detector, [Photo.of(photo)], [Params()], 1, one.crop_size)  # type: ignore[arg-type]
        (parsed,) = parse_faces(pipeline.parser, run_step(step, [work], [Params()]))  # type: ignore[arg-type]
        assert parsed.masks is not None
        assert parsed.masks.shape == (1, one.crop_size, one.crop_size)
        assert torch.equal(fuse(Photo.of(photo), parsed, ["brighten"]).photo, result.photo)
        seen[size] = (work.faces[0].size, float((result.photo.float() - photo.float()).sum()))
    (face, changed), (larger_face, larger_changed) = seen[CROP_SIZE], seen[448]
    assert larger_face == face > 448, "the photo's face must be larger than the crops"
    assert larger_changed == pytest.approx(changed, rel=0.05), "the same change at the same place"


def test_from_store_refusals(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match=r"'beautify9'; known steps: .*enhance"):
        Pipeline.from_store(store, ["beautify9"])
    with pytest.raises(RayfaceError, match=r"no model 'enhancement@7'.*enhancement"):
        Pipeline.from_store(store, models={"enhance": "enhancement@7"})
    with pytest.raises(RayfaceError, match="no model"):
        Pipeline.from_store(ModelStore(tmp_path / "empty"))
