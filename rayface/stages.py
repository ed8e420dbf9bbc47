"""The stages of a photo's way through the networks, as plain functions over `Photo` and `Work`.

`pipeline.Pipeline` calls them one after the other in one process; the Ray Serve deployments call the same functions in
theirs, on the works of several requests at once, so both give the same pixels.
"""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rayface.errors import RayfaceError
from rayface.records import FFHQ_TEMPLATE
from rayface.work import FaceReport, Params, Photo, Report, Result, Work, box_text, tensor

if TYPE_CHECKING:
    from rayface.systems.base import Step

STEP_PARAMS = ("style", "add", "remove", "donor")  # what steps may look at, of each crop
CROP_SIZE = 256  # least side of the aligned crops that travel from stage to stage, px; see `crop_size`
# Crops in one call of a network. On a GPU many; on a CPU one: a batch is no faster there, and its kernels differ in the
# last bit from those of a single crop, so a photo's pixels would depend on what else was being processed.
FORWARD_FACES = {"cuda": 16, "cpu": 1}


class Parser(Protocol):
    """The parsing system's step: crops uint8 [N, 3, S, S] of its size -> class ids uint8 [N, S, S]."""

    size: int
    model: str

    def masks(self, crops: Tensor) -> Tensor: ...


class SwapJudge(Protocol):
    """The step of swap detection: crops uint8 [N, 3, S, S] of its size -> probabilities float [N]."""

    name: str
    size: int
    model: str

    def judge(self, crops: Tensor) -> Tensor: ...


class PhotoStep(Protocol):
    """A step on the whole photo: uint8 [3, H, W] -> uint8 [3, scale * H, scale * W]."""

    name: str
    model: str
    scales: tuple[int, ...]

    def __call__(self, photo: Tensor, scale: int) -> Tensor: ...


class Detector(Protocol):
    """`detector.Detector`: photos uint8 [3, H, W] -> for each its boxes, landmarks and scores."""

    def detect(self, photos: list[Tensor]) -> Sequence[Any]: ...


def enlarge(step: PhotoStep, photo: Photo, params: Params, max_megapixels: float) -> Photo:
    """The photo `params.scale` times larger, or less, or as it is, where that is more than `max_megapixels`.

    What was not done stands in the notes. The input is not written to.
    """
    from rayface.imaging.tiles import allowed_scale

    started = time.perf_counter()
    height, width = photo.pixels.shape[1:]
    scale = allowed_scale(height, width, params.scale, step.scales, max_megapixels)
    notes, pixels = list(photo.notes), photo.pixels
    if scale != params.scale:
        done = f"x{scale} was done" if scale > 1 else "the photo keeps its size"
        notes.append(
            f"{step.name} x{params.scale} of {width} x {height} pixels is more than this model or the limit of "
            f"{max_megapixels:g} megapixels (max_output_megapixels) allows; {done}."
        )
    if scale > 1:
        pixels = step(tensor(pixels), scale).numpy()
    return dataclasses.replace(
        photo,
        pixels=pixels,
        models=photo.models | {step.name: step.model},
        timings_ms=photo.timings_ms | {step.name: _since(started)},
        notes=notes,
    )


def crop_size(sizes: Iterable[int]) -> int:
    """Side of the crops, px, for face steps of these sides: the largest, so that none loses detail to the others."""
    return max((CROP_SIZE, *sizes))


def detect_faces(
    detector: Detector, photos: Sequence[Photo], params: Sequence[Params], max_faces: int, side: int = CROP_SIZE
) -> list[Work]:
    """Detect and align the faces of several photos as crops of `side` px.

    Of more than `max_faces` faces that a request asks for the largest are processed; the rest are reported and left
    alone. Returns a work for each photo, with no faces where none was found.
    """
    started = time.perf_counter()
    pixels = [tensor(photo.pixels) for photo in photos]
    works = []
    for photo, whole, found, param in zip(photos, pixels, detector.detect(pixels), params, strict=True):
        works.append(_align(whole, found, param, photo.enlargement, max_faces, side))
    for work in works:
        work.timings_ms["detect"] = _since(started)
        work.models["detect"] = getattr(detector, "model", "detection")
    return works


def donor_of(work: Work) -> np.ndarray:
    """The largest face of a donor's photo, uint8 [3, S, S]. Raises RayfaceError where there is none."""
    if not work.faces:
        raise RayfaceError("It shows no face; give one with a clear face.", status=422, kind="no-donor")
    largest = max(range(len(work.faces)), key=lambda index: work.faces[index].size)
    return work.crops[largest]


def _align(photo: Tensor, found: Any, params: Params, enlargement: float, max_faces: int, side: int) -> Work:
    from rayface.imaging.align import scales, similarity, warp_crops

    # Float noise depends on what else is in a batch; in 1/16 px it never reaches the pixels.
    landmarks = (torch.as_tensor(found.landmarks, dtype=torch.float32).reshape(-1, 5, 2) * 16).round() / 16
    matrices = similarity(landmarks, FFHQ_TEMPLATE, side) if len(landmarks) else torch.zeros(0, 2, 3)
    sizes = [side / float(scale) for scale in scales(matrices)] if len(landmarks) else []
    reports = [
        FaceReport(
            box=[round(float(value), 2) for value in found.boxes[index]],
            landmarks=landmarks[index].tolist(),
            score=round(float(found.scores[index]), 4),
            size=round(size, 1),
        )
        for index, size in enumerate(sizes)
    ]
    reasons, notes = _left_alone(reports, params, enlargement, max_faces)
    for report, reason in zip(reports, reasons, strict=True):
        if reason:
            report.skipped.append({"step": "all", "reason": reason})
    chosen = [index for index, reason in enumerate(reasons) if not reason]
    crops = warp_crops(photo, matrices[chosen], side).numpy()
    return Work(
        width=photo.shape[2],
        height=photo.shape[1],
        before=crops,
        crops=crops,
        matrices=matrices[chosen].numpy(),
        faces=[reports[index] for index in chosen],
        others=[report for report, reason in zip(reports, reasons, strict=True) if reason],
        changed=np.zeros(len(chosen), bool),
        notes=notes,
    )


def _left_alone(
    faces: Sequence[FaceReport], params: Params, enlargement: float, max_faces: int
) -> tuple[list[str], list[str]]:
    """For each face why a request does not process it ("" where it does), and notes on boxes that hold none.

    A box holds a face whose middle lies in it: so `detect`'s own boxes choose their faces, one drawn around several
    chooses them all, and how tightly it is drawn does not matter.
    """
    reasons, notes = [""] * len(faces), []
    if params.faces == "boxes":
        boxes = np.array(params.boxes) * enlargement
        middles = np.array([face.box for face in faces]).reshape(-1, 2, 2).mean(1)
        held = ((middles >= boxes[:, None, :2]) & (middles <= boxes[:, None, 2:])).all(2)  # [boxes, faces]
        reasons = ["" if inside else "not in the boxes" for inside in held.any(0)]
        for box, any_face in zip(params.boxes, held.any(1), strict=True):
            if not any_face:
                notes.append(f"No face was found whose middle lies in the box {box_text(box)}.")
    limit = 1 if params.faces == "largest" else max_faces
    why = "not the largest face" if params.faces == "largest" else f"more than {max_faces} faces in the photo"
    wanted = sorted((i for i, reason in enumerate(reasons) if not reason), key=lambda i: -faces[i].size)
    for index in wanted[limit:]:
        reasons[index] = why
    return reasons, notes


def faces_together(stage: Any) -> int:
    """How many crops go through a stage's network in one call, by the device it is on."""
    return FORWARD_FACES[torch.device(getattr(stage, "device", "cpu")).type]


def run_step(step: "Step", works: Sequence[Work], params: Sequence[Params]) -> list[Work]:
    """Run one step on the faces of several photos, crops of one side, in common batches; returns new works."""
    started = time.perf_counter()
    counts = [len(work.faces) for work in works]
    crops = tensor(np.concatenate([work.crops for work in works])) if sum(counts) else torch.zeros(0)
    asked = [p for p, n in zip(params, counts, strict=True) for _ in range(n)]
    strengths = torch.tensor([p.strength for p in asked])
    after, reasons = [], []
    together = faces_together(step)
    for first in range(0, len(crops), together):
        part = slice(first, first + together)
        of_each = {name: [getattr(p, name) for p in asked[part]] for name in STEP_PARAMS}
        changed, why = _apply(step, crops[part], strengths[part], of_each)
        after.append(changed)
        reasons += why
    stacked = torch.cat(after).numpy() if after else crops.numpy()
    results, first = [], 0
    for work, count in zip(works, counts, strict=True):
        part = slice(first, first + count)
        results.append(_with_step(work, step, stacked[part], reasons[part], _since(started)))
        first += count
    return results


def _apply(step: "Step", crops: Tensor, strengths: Tensor, params: Mapping[str, Any]) -> tuple[Tensor, list[str]]:
    """The step on one batch: new crops and, for each face, why it was left out ("" where it was not)."""
    from rayface.imaging.paste import already_sharp

    native = resize_crops(crops, step.size)
    output = step(native, params)
    reasons = [""] * len(crops)
    if step.sharpens:
        for index, less in enumerate(already_sharp(native, output).tolist()):
            reasons[index] = "the face is already sharper than the step's output" if less else ""
    for index, same in enumerate((output == native).flatten(1).all(1).tolist()):
        reasons[index] = "the step changed nothing" if same else reasons[index]
    for index in (strengths == 0).nonzero().flatten().tolist():
        reasons[index] = "strength is 0"
    keep = torch.tensor([reason == "" for reason in reasons])
    # Only the change travels: at full strength and native size this is the output itself, exactly.
    change = (output.float() - native.float()) * (strengths * keep)[:, None, None, None]
    if step.size != crops.shape[-1]:
        change = torch.nn.functional.interpolate(change, crops.shape[-2:], mode="bicubic", align_corners=False)
    return (crops.float() + change).round_().clamp_(0, 255).to(torch.uint8), reasons


def resize_crops(crops: Tensor, size: int) -> Tensor:
    """uint8 crops [N, 3, S, S] at another side, anti-aliased."""
    if crops.shape[-1] == size:
        return crops
    resized = interpolate(crops.float(), (size, size), mode="bicubic", align_corners=False, antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _with_step(work: Work, step: "Step", crops: np.ndarray, reasons: Sequence[str], milliseconds: float) -> Work:
    """`work` after a step: crops, what was applied, what was left out."""
    faces = []
    for face, reason in zip(work.faces, reasons, strict=True):
        if reason:
            face = dataclasses.replace(face, skipped=[*face.skipped, {"step": step.name, "reason": reason}])
        else:
            face = dataclasses.replace(face, steps=[*face.steps, step.name])
        faces.append(face)
    applied = np.array([reason == "" for reason in reasons], bool)
    return dataclasses.replace(
        work,
        crops=crops if len(faces) else work.crops,
        faces=faces,
        changed=work.changed | applied,
        match_colour=work.match_colour and (step.sharpens or not applied.any()),
        keep_identity=work.keep_identity and (getattr(step, "keeps_identity", True) or not applied.any()),
        models=work.models | {step.name: step.model},
        timings_ms=work.timings_ms | {step.name: milliseconds},
    )


def parse_faces(parser: Parser, works: Sequence[Work], every_face: Sequence[bool] = ()) -> list[Work]:
    """Masks for the faces of several photos, crops of one side, in common batches; returns new works.

    Only changed faces are parsed and the others' masks stay 0, but for works whose `every_face` is true.
    """
    started = time.perf_counter()
    every = every_face or [False] * len(works)
    wanted = [work.changed | all_faces for work, all_faces in zip(works, every, strict=True)]
    crops = [work.crops[chosen] for work, chosen in zip(works, wanted, strict=True) if chosen.any()]
    batch = tensor(np.concatenate(crops)) if crops else torch.zeros(0)
    parts = [_masks(parser, part) for part in batch.split(faces_together(parser))] if crops else []
    found = torch.cat(parts).numpy() if parts else np.zeros(0)
    results, first = [], 0
    for work, chosen in zip(works, wanted, strict=True):
        masks = np.zeros((len(work.faces), *work.crops.shape[-2:]), np.uint8)
        if count := int(chosen.sum()):
            masks[chosen] = found[first : first + count]
        first += count
        timings = work.timings_ms | {"parse": _since(started)}
        models = work.models | {"parse": parser.model}
        results.append(dataclasses.replace(work, masks=masks, models=models, timings_ms=timings))
    return results


def _masks(parser: Parser, crops: Tensor) -> Tensor:
    """Class ids uint8 [N, S, S] of crops of any side S."""
    masks = parser.masks(resize_crops(crops, parser.size))
    if masks.shape[-1] == crops.shape[-1]:
        return masks
    return interpolate(masks[:, None], crops.shape[-2:], mode="nearest-exact")[:, 0]


def judge_swaps(judge: SwapJudge, works: Sequence[Work]) -> list[Work]:
    """How likely each face of several photos, crops of one side, was swapped; returns new works."""
    started = time.perf_counter()
    crops = tensor(np.concatenate([work.crops for work in works]))
    parts = [judge.judge(resize_crops(part, judge.size)) for part in crops.split(faces_together(judge)) if len(part)]
    found = torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)
    results, first = [], 0
    for work in works:
        judged = found[first : first + len(work.faces)].tolist()
        first += len(work.faces)
        pairs = zip(work.faces, judged, strict=True)
        faces = [dataclasses.replace(face, swapped=round(probability, 4)) for face, probability in pairs]
        timings = work.timings_ms | {judge.name: _since(started)}
        models = work.models | {judge.name: judge.model}
        results.append(dataclasses.replace(work, faces=faces, models=models, timings_ms=timings))
    return results


def fuse(photo: Photo, work: Work | None, steps: Sequence[str], unguarded: str = "") -> Result:
    """Paste the changed faces of a parsed work into its photo; the input is not written to.

    `work` is None where no step was about faces. A photo in which nothing changed comes back as it is, with a report
    that says why. `unguarded`: why nothing compared identities, noted where a face was changed.
    """
    from rayface.imaging.paste import face_region, paste_back

    started = time.perf_counter()
    result = tensor(photo.pixels)
    if work is not None and work.changed.any():
        assert work.masks is not None
        chosen = work.changed
        region = face_region(tensor(work.masks[chosen]))
        before, after, matrices = (tensor(array[chosen]) for array in (work.before, work.crops, work.matrices))
        result = paste_back(result, before, after, matrices, region, work.match_colour)
    report = Report(
        width=result.shape[2],
        height=result.shape[1],
        input_width=photo.input_width,
        input_height=photo.input_height,
        steps=list(steps),
        faces=[*work.faces, *work.others] if work else [],
        changed=int(work.changed.sum()) if work else 0,
        models=photo.models | (work.models if work else {}),
        timings_ms=photo.timings_ms | (work.timings_ms if work else {}) | {"fuse": _since(started)},
        notes=[*photo.notes, *(work.notes if work else ())],
    )
    if unguarded and report.changed:
        report.notes.append(unguarded)
    if work is not None and not report.changed:
        faces = "changed" if report.faces else "found"
        rest = "the photo is upscaled, nothing else" if photo.enlargement != 1 else "the photo is unchanged"
        report.notes.append(f"No face was {faces}; {rest}.")
    return Result(result, report)


def _since(started: float) -> float:
    return round(1000 * (time.perf_counter() - started), 2)
