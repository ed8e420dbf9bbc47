"""`rayface apply`: the pipeline over a photo or a folder, in this process."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayface.errors import RayfaceError
from rayface.store import ModelStore

SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}  # of results
AS_PNG = (".bmp", ".tif", ".tiff")  # are read, too
UNREAD = (".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".arw")  # pictures all the same


def apply_steps(
    steps: Sequence[str],
    source: Path,
    target: Path,
    store: ModelStore,
    assignments: Sequence[str] = (),
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `steps` on a photo, or on every photo of a folder into the folder `target`, and report what was done.

    `assignments` are `key=value` parameters (strength, faces, boxes, scale; max_output_megapixels, identity_guard,
    similarity_threshold), `models` are `step=name@version` where a step (or "parse", "identify") takes another model
    than the one named as its system. In a folder, a picture that cannot be processed is listed in the report and does
    not stop the others; results of BMP and TIFF are PNG, existing results are replaced. Raises RayfaceError for a
    missing source, an unknown output format or a bad parameter.
    """
    from rayface.pipeline import Pipeline
    from rayface.work import check_params

    values = dict(_assignment("--set", text, "strength=0.5") for text in assignments)
    megapixels = _megapixels(values.pop("max_output_megapixels", None))
    action, threshold = values.pop("identity_guard", "blend"), _threshold(values.pop("similarity_threshold", None))
    params = check_params(values)
    chosen = dict(_assignment("--model", text, "enhance=enhancement@2") for text in models)
    if not source.exists():
        raise RayfaceError(f"{source} does not exist; give a photo or a folder of photos")
    if source.is_file() and target.suffix.lower() not in SUFFIXES:
        raise RayfaceError(f"{target}: the result's name must end in {', '.join(SUFFIXES)}")
    if source.is_dir() and target.is_file():
        raise RayfaceError(f"{target} is a file; the results of a folder go into a folder")
    if source.resolve() == target.resolve():
        raise RayfaceError(f"{target} is the input itself; choose another OUTPUT, so that the originals stay")
    pipeline = Pipeline.from_store(store, steps, chosen, identity_guard=action, similarity_threshold=threshold)
    pipeline.max_output_megapixels = megapixels
    if source.is_file():
        return {"photos": [_apply_one(pipeline, steps, source, target, params)]}
    known = (*SUFFIXES, *AS_PNG, *UNREAD)
    found = (p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in known)
    photos = sorted(p for p in found if target.resolve() not in p.resolve().parents)
    if not photos:
        raise RayfaceError(f"{source} holds no photos ({', '.join((*SUFFIXES, *AS_PNG))})")
    reports: list[dict[str, Any]] = []
    for photo in photos:
        result = target / photo.relative_to(source)
        if photo.suffix.lower() in AS_PNG:
            result = result.with_name(f"{result.name}.png")  # a.tif and a.png may lie side by side
        try:
            reports.append(_apply_one(pipeline, steps, photo, result, params))
        except (RayfaceError, OSError) as error:
            reports.append({"photo": str(photo), "error": str(error)})
    return {"photos": reports}


def _apply_one(pipeline: Any, steps: Sequence[str], source: Path, target: Path, params: Any) -> dict[str, Any]:
    from rayface.imaging.codec import decode, encode
    from rayface.storage import open_filesystem, write_bytes

    result = pipeline.process(decode(source.read_bytes()), steps, params)
    filesystem, path = open_filesystem(target)
    write_bytes(encode(result.photo, SUFFIXES[target.suffix.lower()]), path, filesystem)  # type: ignore[arg-type]
    return {"photo": str(source), "result": str(target), **dataclasses.asdict(result.report)}


def _megapixels(text: str | None) -> float:
    """The limit of an enlarged photo; only who runs the program may move it, not a request."""
    from rayface.work import MAX_OUTPUT_MEGAPIXELS

    if text is None:
        return MAX_OUTPUT_MEGAPIXELS
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise RayfaceError(f"max_output_megapixels is {text!r}; give a number above 0, for example 64.")
    return value


def _threshold(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise RayfaceError(f"similarity_threshold is {text!r}; give a cosine from -1 to 1, for example 0.97.") from None


def _assignment(option: str, text: str, example: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise RayfaceError(f"{option} {text!r}: expected key=value, for example {option} {example}")
    return key.strip(), value.strip()
