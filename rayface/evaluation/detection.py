"""How well detectors find faces and their landmarks: aligned crops as they are, and placed in a busy picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rayface.detector import Detector, Faces
from rayface.evaluation.metrics import bootstrap
from rayface.evaluation.subgroups import record
from rayface.randomness import generator

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

FOUND = 0.5  # a detection is the face where its landmarks lie, on average, within this many eye distances of the labels
SCENE_SEED = 20212
SCENE_SIZES = (0.25, 0.8)  # of the crop's side: what a crop placed in a scene is reduced to
TILES = 8  # a scene's background is another photo cut into so many rows and columns, which are shuffled


def landmark_errors(faces: Faces, landmarks: np.ndarray) -> np.ndarray:
    """Each detection's mean distance from the labelled landmarks [5, 2], in eye distances: float [number of faces]."""
    eyes = np.linalg.norm(landmarks[0] - landmarks[1])
    return np.linalg.norm(faces.landmarks.numpy() - landmarks, axis=2).mean(1) / eyes


def face_error(faces: Faces, landmarks: np.ndarray) -> float:
    """The nearest detection's error; infinite without one."""
    return float(landmark_errors(faces, landmarks).min(initial=np.inf))


def detection_summary(errors: np.ndarray, detections: np.ndarray) -> dict[str, Any]:
    """Per-photo errors (`face_error`) and numbers of detections -> share found, errors in % of the eye distance.

    Other detections than the face are false ones, or faces that have no label. Without a face found there is no
    landmark error.
    """
    hits = errors < FOUND
    summary = {
        "found_percent": bootstrap(100.0 * hits),
        "others_per_photo": bootstrap((detections - hits).astype(float)),
    }
    if hits.any():
        percent = 100 * errors[hits]
        summary["median_error_percent"] = bootstrap(percent, np.median)
        summary["p90_error_percent"] = bootstrap(percent, lambda rows: float(np.percentile(rows, 90)))
    return summary


def scene(crop: Tensor, other: Tensor, landmarks: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """`crop` uint8 [3, S, S], reduced, somewhere on shuffled tiles of `other` (same shape), and its landmarks [5, 2].

    What is found in the tiles is no face, though they have the texture of photos and show parts of faces.
    """
    size = crop.shape[-1]
    tile = size // TILES
    cells = other[:, : tile * TILES, : tile * TILES].reshape(3, TILES, tile, TILES, tile).permute(1, 3, 0, 2, 4)
    cells = cells.flatten(0, 1)[torch.from_numpy(random.permutation(TILES * TILES))]
    tiles = cells.unflatten(0, (TILES, TILES)).permute(2, 0, 3, 1, 4).reshape(3, tile * TILES, tile * TILES)
    picture = interpolate(tiles[None], (size, size))[0]
    side = round(size * random.uniform(*SCENE_SIZES))
    x, y = (int(value) for value in random.integers(0, size - side + 1, 2))
    picture[:, y : y + side, x : x + side] = interpolate(crop[None], (side, side), mode="bilinear", antialias=True)[0]
    return picture, (landmarks + 0.5) * (side / size) - 0.5 + landmarks.new_tensor([x, y])


def detection_report(
    detectors: Mapping[str, Detector], dataset: "FaceDataset", batch: int, limit: int | None
) -> dict[str, Any]:
    """`{set: {detector: summary}}` for the sets "crops" (as they are) and "scenes" (see `scene`).

    Scenes depend on the dataset index only, so that all detectors see the same. With a "release" among the detectors,
    each other one also gets `error_change_percent`: its landmark error less the release's on the faces both found.
    """
    total = min(len(dataset), limit or len(dataset))
    errors: dict[tuple[str, str], list[float]] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    for start in range(0, total, batch):
        for kind, (pictures, landmarks) in _pictures(dataset, range(start, min(start + batch, total))).items():
            for name, detector in detectors.items():
                for faces, points in zip(detector.detect(pictures), landmarks, strict=True):
                    errors.setdefault((kind, name), []).append(face_error(faces, points.numpy()))
                    counts.setdefault((kind, name), []).append(len(faces))
    report: dict[str, Any] = {}
    for (kind, name), values in errors.items():
        own, release = np.array(values), np.array(errors.get((kind, "release"), values))
        summary = detection_summary(own, np.array(counts[kind, name]))
        both = (own < FOUND) & (release < FOUND)
        if "release" in detectors and name != "release" and both.any():
            summary["error_change_percent"] = bootstrap(100 * (own[both] - release[both]))
        if name == "model":
            record(f"{kind}, found_percent", 100.0 * (own < FOUND))
            record(f"{kind}, error_percent", np.where(own < FOUND, 100 * own, np.nan))
        report.setdefault(kind, {})[name] = summary
    return report


def _pictures(dataset: "FaceDataset", indices: range) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Each set's pictures and landmarks of some faces of the dataset."""
    columns = dataset.batch(indices, ("image", "landmarks"))
    others = dataset.batch([(index + 1) % len(dataset) for index in indices], ("image",))["image"]
    crops, landmarks = columns["image"], columns["landmarks"]
    generators = [generator(SCENE_SEED, 0, index, "detection scenes") for index in indices]
    scenes = [scene(*values) for values in zip(crops, others, landmarks, generators, strict=True)]
    return {
        "crops": (list(crops), list(landmarks)),
        "scenes": ([picture for picture, _ in scenes], [points for _, points in scenes]),
    }
