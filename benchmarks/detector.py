"""How well and how fast the detector finds faces: prints one line of JSON.

    python benchmarks/detector.py --photos data/celeba-mini/photos --landmarks data/celeba-mini/landmarks.csv

`--landmarks`: a CSV with the columns `image_id` and x, y of the five landmarks in records.LANDMARKS order. A face
counts as found if a detection's landmarks lie, on average, within half an eye distance of the labels; errors are
mean point distances over the eye distance of the labels, in percent, over the faces found.

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

from rayface.imaging.codec import decode
from rayface.systems.detection import Detector, DetectorConfig, Faces, load_detector


def error_of(faces: Faces, labels: np.ndarray) -> float:
    """The best detection's mean point distance over the labels' eye distance; infinite without a detection."""
    eyes = np.linalg.norm(labels[0] - labels[1])
    distances = np.linalg.norm(faces.landmarks.numpy() - labels, axis=2).mean(1) / eyes
    return float(distances.min(initial=np.inf))


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
    parser.add_argument("--pad", type=float, default=0.25, help="border added, as a fraction of the longer side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--limit", type=int, help="only the first photos")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--min-face", type=float, default=DetectorConfig.min_face)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    with arguments.landmarks.open() as file:
        rows = list(csv.reader(file))[1:][: arguments.limit]
    labels = [np.array(row[1:], np.float32).reshape(5, 2) for row in rows]
    photos = [decode((arguments.photos / row[0]).read_bytes()) for row in rows]
    config = DetectorConfig(min_face=arguments.min_face)
    detector = load_detector(device=arguments.device, config=config)
    found, seconds, processor = run(detector, photos, arguments.pad, arguments.batch)

    errors = np.array([error_of(faces, label) for faces, label in zip(found, labels, strict=True)])
    hits = errors < 0.5
    four = torch.cat([torch.cat(photos[:2], 2), torch.cat(photos[2:4], 2)], 1)[None]
    large = torch.nn.functional.interpolate(four, (960, 1280), mode="bilinear")[0]
    _, large_seconds, large_processor = run(detector, [large] * 5, 0.0, 1)
    offsets = np.array(
        [
            faces.landmarks[np.linalg.norm(faces.landmarks.numpy() - label, axis=2).mean(1).argmin()].numpy() - label
            for faces, label, hit in zip(found, labels, hits, strict=True)
            if hit
        ]
    )
    report = {
        "photos": len(photos),
        "size": list(photos[0].shape[1:]),
        "pad": arguments.pad,
        "found_percent": round(100 * float(hits.mean()), 2),
        "median_error_percent": round(100 * float(np.median(errors[hits])), 2),
        "p90_error_percent": round(100 * float(np.percentile(errors[hits], 90)), 2),
        "mean_offset_px": offsets.mean(0).round(2).tolist(),
        "faces_per_photo": round(sum(map(len, found)) / len(found), 3),
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
