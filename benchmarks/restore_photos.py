"""A contact sheet of real degraded photos before and after a step, with what the judges say of every face.

    python benchmarks/restore_photos.py PHOTOS --out runs/restored [--steps enhance] [--model enhance=enhancement@2]

There is no clear photo to compare with, so each face is compared with itself: sharpness after over before, how far the
mean colour moved (levels of 255), whether the judges still see the same person (dlib: Euclidean, below 0.6; FaceRes:
1 - cosine), and how sure the attribute judge is of glasses before and after (an invented pair would show). Writes
sheet.png (pairs of faces, before above after) and report.json; prints a summary. Look at the sheet.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayface.evaluation.judges import Panel
from rayface.evaluation.metrics import colour_shift
from rayface.evaluation.pictures import grid
from rayface.imaging.align import similarity, warp_crops
from rayface.imaging.codec import decode, encode, to_float
from rayface.imaging.quality import face_sharpness
from rayface.pipeline import Pipeline
from rayface.records import ATTRIBUTE_ID, FFHQ_TEMPLATE
from rayface.store import open_store

SIZE = 256
COLUMNS = 8


def crop(photo: Tensor, landmarks: list[list[float]]) -> Tensor:
    """The aligned face, uint8 [1, 3, SIZE, SIZE]."""
    return warp_crops(photo, similarity(torch.tensor([landmarks]), FFHQ_TEMPLATE, SIZE), SIZE)


def glasses(crops: Tensor) -> float:
    from rayface.evaluation.attribute_judge import load_attribute_judge

    with torch.inference_mode():
        return float(load_attribute_judge()(to_float(crops))[0, ATTRIBUTE_ID["Eyeglasses"]])


def compare(before: Tensor, after: Tensor, metrics: dict[str, Any]) -> dict[str, float]:
    """What changed between two crops uint8 [1, 3, S, S] of one face."""
    measured = {name: float(metric(after, before)) for name, metric in metrics.items() if name.startswith("identity")}
    return {
        "sharpness_ratio": float(face_sharpness(after) / face_sharpness(before)),
        "colour_shift": float(colour_shift(after, before)),
        "glasses_before": glasses(before),
        "glasses_after": glasses(after),
        **measured,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst of each measure over the faces that were changed."""
    changed = [row for row in rows if row["steps"]]
    result: dict[str, Any] = {"faces": len(rows), "changed": len(changed)}
    for name in ("sharpness_ratio", "colour_shift", "identity_distance", "identity_distance_second"):
        values = [row[name] for row in changed if name in row]
        if values:
            worst = min(values) if name == "sharpness_ratio" else max(values)
            result[name] = {"median": round(float(np.median(values)), 4), "worst": round(worst, 4)}
    appeared = [row for row in changed if row["glasses_before"] < 0.5 <= row["glasses_after"]]
    return {**result, "glasses_appeared": [f"{row['photo']} face {row['face']}" for row in appeared]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", default="enhance")
    parser.add_argument("--model", action="append", default=[], help="STEP=NAME@VERSION")
    parser.add_argument("--store", default=None)
    args = parser.parse_args()
    steps = args.steps.split(",")
    models = dict(assignment.split("=", 1) for assignment in args.model)
    pipeline = Pipeline.from_store(open_store(args.store), steps, models)
    metrics = Panel().metrics()
    rows, pairs, without_face = [], [], []
    for path in sorted(p for p in args.photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")):
        photo = decode(path.read_bytes())
        result = pipeline.process(photo, steps)
        if not result.report.faces:
            without_face.append(path.name)
        scale = result.photo.shape[2] / photo.shape[2]
        for number, face in enumerate(result.report.faces):
            before = crop(photo, [[x / scale, y / scale] for x, y in face.landmarks])
            after = crop(result.photo, face.landmarks)
            row = {"photo": path.name, "face": number, "size": face.size, "steps": face.steps, "skipped": face.skipped}
            rows.append({**row, **compare(before, after, metrics)})
            pairs.append((before[0], after[0]))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.json").write_text(json.dumps(rows, indent=1))
    lines = []
    for start in range(0, len(pairs), COLUMNS):
        part = pairs[start : start + COLUMNS]
        lines += [torch.stack([before for before, _ in part]), torch.stack([after for _, after in part])]
    (args.out / "sheet.png").write_bytes(encode(grid(lines), "png"))
    print(json.dumps({**summary(rows), "photos_without_a_face": without_face}, indent=1))


if __name__ == "__main__":
    main()
