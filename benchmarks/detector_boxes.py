"""How the released detector's boxes follow from a face's landmarks: prints the constants of `rayface.data.windows`.

    python -m benchmarks.detector_boxes --photos DIR --landmarks CSV --data DIR

`--photos`, `--landmarks`: as for benchmarks/detector.py; `--data`: the same photos ingested, of which the training
split is used. Faces are measured in the FFHQ frame of their labelled landmarks: medians of the box's size and height,
and a least-squares line of its middle against the nose, through the middle of the frame as a mirrored face must do.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.detector import read_photos, run
from rayface.detector import load_detector
from rayface.evaluation.detection import FOUND, landmark_errors
from rayface.imaging.align import scales, similarity, transform_points
from rayface.records import FFHQ_TEMPLATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--landmarks", type=Path, required=True)
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()

    photos, labels = read_photos(arguments.photos, arguments.landmarks, arguments.data, "train")
    found, _, _ = run(load_detector(), photos, pad=0.25, batch=32)
    boxes, points = [], []
    for faces, label in zip(found, labels, strict=True):
        errors = landmark_errors(faces, label)
        if errors.min(initial=np.inf) < FOUND:
            boxes.append(faces.boxes[int(errors.argmin())])
            points.append(torch.from_numpy(label))
    landmarks, corners = torch.stack(points), torch.stack(boxes).reshape(-1, 2, 2)
    frames = similarity(landmarks, FFHQ_TEMPLATE, 1)
    middle = transform_points(corners.mean(1, keepdim=True), frames)[:, 0]
    sides = (corners[:, 1] - corners[:, 0]) * scales(frames)[:, None]
    nose = transform_points(landmarks, frames)[:, 2, 0] - 0.5
    turn = float((nose * (middle[:, 0] - 0.5)).sum() / nose.square().sum())
    rest = middle[:, 0] - 0.5 - turn * nose
    width, height = sides.median(0).values.tolist()
    report = {
        "faces": len(landmarks),
        "BOX_WIDTH": width,
        "BOX_HEIGHT": height,
        "BOX_Y": float(middle[:, 1].median()),
        "TURN": turn,
        "explained": 1 - float(rest.square().sum() / (middle[:, 0] - 0.5).square().sum()),
    }
    print(json.dumps({key: round(value, 3) for key, value in report.items()}))


if __name__ == "__main__":
    main()
