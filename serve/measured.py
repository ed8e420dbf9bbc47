"""What is counted of photos and stages (`rayface.metrics`): numbers and fixed words only, nothing about who is seen."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rayface import metrics
from rayface.errors import RayfaceError
from rayface.pipeline import photo_steps
from rayface.work import Params
from serve.models import parse_shares
from serve.problems import Overloaded, cause

# How the reasons in a report begin, and the word of each as a label: texts hold numbers, labels must be few.
REASONS = {
    "more than": "max_faces",
    "not the largest": "not_largest",
    "not in the boxes": "not_in_boxes",
    "the face is already sharper": "already_sharp",
    "the step changed nothing": "nothing_changed",
    "strength is 0": "strength_0",
    "identity:": "identity",
}


@contextmanager
def photo(way: str) -> Iterator[None]:
    """While one photo is worked on. `way`: process, job, detect, parse or detect_swap."""
    started, result = time.perf_counter(), "done"
    try:
        yield
    except BaseException as error:
        result = _result(error)
        raise
    finally:
        metrics.PHOTOS.record(1, way=way, result=result)
        if result == "done":
            metrics.PHOTO_SECONDS.record(time.perf_counter() - started, way=way)


def _result(error: BaseException) -> str:
    """refused: the service was busy; rejected: the client's to mend; cancelled: the client went away; failed: ours."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, Overloaded):
        return "refused"
    return "rejected" if isinstance(error, RayfaceError) and error.status < 500 else "failed"


def report(told: Mapping[str, Any], params: Params) -> None:
    """The report of a processed photo, `dataclasses.asdict` of a `work.Report`."""
    faces = told["faces"]
    metrics.FACES_FOUND.record(len(faces))
    metrics.FACES_CHANGED.record(told["changed"])
    for face in faces:
        for left_out in face["skipped"]:
            metrics.FACES_SKIPPED.record(1, reason=reason_word(left_out["reason"]))
        if face["similarity"] is not None:
            kept = face["kept"]
            verdict = "passed" if kept == 1 else "blended" if kept > 0 else "undone"
            metrics.GUARD_FACES.record(1, verdict=verdict)
            metrics.GUARD_SIMILARITY.record(max(face["similarity"], 0.0))
    if photo_steps() & set(told["steps"]) and told["width"] < params.scale * told["input_width"]:
        metrics.RESULTS_REDUCED.record(1)


def reason_word(text: str) -> str:
    """The label of a reason in a report; "other" for one that is not in REASONS."""
    return next((word for start, word in REASONS.items() if text.startswith(start)), "other")


def batch(stage: str, results: Sequence[Any], room: int, seconds: float) -> None:
    """One call of a stage: its results (works, photos, or results with their reports), of at most `room` photos."""
    metrics.STAGE_BATCHES.record(1, stage=stage)
    metrics.STAGE_SLOTS.record(max(room, len(results)), stage=stage)
    metrics.STAGE_SECONDS.record(seconds, stage=stage)
    for result in results:
        model, version = _name_and_version(getattr(result, "models", {}).get(stage, ""))
        metrics.STAGE_PHOTOS.record(1, stage=stage, model=model, version=version)
        metrics.STAGE_FACES.record(faces_of(result), stage=stage, model=model, version=version)


def faces_of(result: Any) -> int:
    """Faces in what a stage gives: a `Work`, a `Photo`, or an image and its report."""
    faces = result[1]["faces"] if isinstance(result, tuple) else getattr(result, "faces", ())
    return len(faces)


def failed(stage: str, error: BaseException) -> None:
    """A stage could not do a photo."""
    known = cause(error)
    metrics.STAGE_ERRORS.record(1, stage=stage, kind=known.kind if known else "internal")


def served(stage: str, before: str, now: str, refused: str) -> None:
    """The models of a stage (`models.parse_shares`) are no longer `before` but `now`; `refused`: a wish not met."""
    gone = dict.fromkeys(parse_shares(before), 0.0) if before else {}
    for ref, share in (gone | (parse_shares(now) if now else {})).items():
        model, version = _name_and_version(ref)
        metrics.MODEL_SHARE.record(share, stage=stage, model=model, version=version)
    metrics.MODEL_REFUSED.record(1.0 if refused else 0.0, stage=stage)


def _name_and_version(ref: str) -> tuple[str, str]:
    """Of a folder its last part only: where models lie is nobody's business."""
    name, _, version = ref.rpartition("/")[2].partition("@")
    return name, version
