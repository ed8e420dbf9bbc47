"""How well and how fast the detector finds faces: prints one line of JSON.

    python benchmarks/detector.py --photos data/celeba-mini/photos --landmarks data/celeba-mini/landmarks.csv

`--landmarks`: a CSV with the columns `image_id` and x, y of the five landmarks in records.LANDMARKS order. A face
counts as found if a detection's landmarks lie, on average, within half an eye distance of the labels; errors are
mean point distances over the eye distance of the labels, in percent, over the faces found. Intervals are 95 % bootstrap
intervals over photos. `--model REF` measures another detector than the released one, `--data DIR --split test` only
the photos that the dataset DIR, ingested from the same folder, holds in that split.

On a machine that does other work too, idle OpenMP threads that spin cost far more than they give (measured: 14
photos/s with two threads, 47 with one, 55 with two and OMP_WAIT_POLICY=PASSIVE): use one of the latter two.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch

from rayface.data.dataset import FaceDataset
from rayface.detector import Detector, DetectorConfig, Faces
from rayface.evaluation.detection import FOUND, detection_summary, face_error, landmark_errors
from rayface.imaging.codec import decode
from rayface.pipeline import load_step
from rayface.store import open_store


def read_photos(
    photos: Path, landmarks: Path, data: str | None, split: str | None
) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """Photos, uint8 [3, H, W], and their labelled landmarks [5, 2]: all, or those of a dataset's split."""
    with landmarks.open() as file:
        rows = list(csv.reader(file))[1:]
    if data:
        chosen = set(FaceDataset(data, split).ids)
        rows = [row for row in rows if row[0] in chosen]
    labels = [np.array(row[1:], np.float32).reshape(5, 2) for row in rows]
    return [decode((photos / row[0]).read_bytes()) for row in rows], labels


def run(detector: Detector, photos: list[torch.Tensor], pad: float, batch: int) -> tuple[list[Faces], float, float]:
    """Faces of all photos, the seconds it took and those of processor time, after a warm-up."""
    detector.detect(photos[:batch], pad)
    started, processor = time.perf_counter(), time.process_time()
    found = []
    for first in range(0, len(photos), batch):
        found += detector.detect(photos[first : first + batch], pad)
    return found, time.perf_counter() - started, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--landmarks", type=Path, required=True)
    parser.add_argument("--model", default="detection", help="name, name@version or a model's folder")
    parser.add_argument("--store", help="model store; the release weights are behind it")
    parser.add_argument("--data", help="measure only photos that this dataset holds ...")
    parser.add_argument("--split", help="... in this split")
    parser.add_argument("--pad", type=float, default=0.25, help="border added, as a fraction of the longer side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--limit", type=int, help="only the first photos")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--min-face", type=float, default=DetectorConfig.min_face)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    photos, labels = read_photos(arguments.photos, arguments.landmarks, arguments.data, arguments.split)
    photos, labels = photos[: arguments.limit], labels[: arguments.limit]
    detector = load_step(open_store(arguments.store), arguments.model, arguments.device)
    detector.config = DetectorConfig(min_face=arguments.min_face)
    found, seconds, processor = run(detector, photos, arguments.pad, arguments.batch)

    errors = np.array([face_error(faces, label) for faces, label in zip(found, labels, strict=True)])
    hits = errors < FOUND
    four = torch.cat([torch.cat(photos[:2], 2), torch.cat(photos[2:4], 2)], 1)[None]
    large = torch.nn.functional.interpolate(four, (960, 1280), mode="bilinear")[0]
    _, large_seconds, large_processor = run(detector, [large] * 5, 0.0, 1)
    offsets = np.array(
        [
            faces.landmarks[int(landmark_errors(faces, label).argmin())].numpy() - label
            for faces, label, hit in zip(found, labels, hits, strict=True)
            if hit
        ]
    )
    summary = detection_summary(errors, np.array([len(faces) for faces in found]))
    report = {
        "photos": len(photos),
        "size": list(photos[0].shape[1:]),
        "pad": arguments.pad,
        "model": detector.model,
        **{key: {k: round(v, 3) for k, v in value.items()} for key, value in summary.items()},
        "mean_offset_px": offsets.mean(0).round(2).tolist(),
        "photos_per_second": round(len(photos) / seconds, 1),
        "photos_per_processor_second": round(len(photos) / processor, 1),
        "ms_at_1280x960": round(200 * large_seconds, 1),
        "processor_ms_at_1280x960": round(200 * large_processor, 1),
        "threads": torch.get_num_threads(),
        "device": arguments.device,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
