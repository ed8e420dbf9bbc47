"""What pasting back costs a photo: seams, lost sharpness, time. Prints one line of JSON.

    python benchmarks/paste_back.py                      # a drawn picture
    python benchmarks/paste_back.py --photos some/folder --pictures out/

Each face is changed in its 256-px crop as a network might change it (blurred, sharpened, brightened, tinted), with
an ellipse for the parsed face, and pasted back. A seam is measured in the band where the weight is between 0 and 1:
the 99th percentile of the luminance gradient there, over the unchanged photo's. Sharpness is the gradient energy
where the weight is above 0.5, over the unchanged photo's; `pixels` is the same for pasting pixels instead of the
change. Faces that `already_sharp` leaves alone are counted and have a sharpness of 1.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rayface.imaging.align import resample, scales, similarity, warp_crops
from rayface.imaging.codec import decode, encode
from rayface.imaging.filters import gaussian_blur, luminance
from rayface.imaging.paste import already_sharp, face_region, paste_back, paste_weight
from rayface.records import FFHQ_TEMPLATE, PARSING_ID

SIZE = 256


def sharpened(crops: Tensor) -> Tensor:
    x = crops.float()
    return x + 0.5 * (x - gaussian_blur(x, 1.5))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "blurred": lambda x: gaussian_blur(x.float(), 1.5),
    "sharpened": sharpened,
    "brightened": lambda x: x.float() + 25,
    "tinted": lambda x: x.float() + torch.tensor([20.0, 0, -20])[:, None, None],
    "smoothed_lightly": lambda x: gaussian_blur(x.float(), 0.5),
}


# How numbers of several faces become one; the others' worst is their least.
WORST: dict[str, Callable[[Iterable[float]], float]] = {
    "touched_outside": max,
    "seam": max,
    "milliseconds": max,
    "left_alone": sum,
}


def ellipse_mask(size: int) -> Tensor:
    """Class ids uint8 [1, size, size]: skin in an ellipse about where an FFHQ crop has its face."""
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    inside = ((x - 0.5) / 0.3) ** 2 + ((y - 0.54) / 0.38) ** 2 < 1
    return (inside * PARSING_ID["skin"]).to(torch.uint8)[None]


def drawn_photo() -> Tensor:
    """uint8 [3, 1200, 1600] with detail at every scale (1/f noise)."""
    rng = np.random.default_rng(0)
    fy, fx = np.meshgrid(np.fft.fftfreq(1200), np.fft.fftfreq(1600), indexing="ij")
    spectrum = np.fft.fft2(rng.standard_normal((3, 1200, 1600))) / np.maximum(np.hypot(fy, fx), 1 / 1600)
    photo = np.fft.ifft2(spectrum).real
    photo = 128 + 40 * photo / photo.std()
    return torch.from_numpy(photo.clip(0, 255).astype(np.uint8))


def gradient(photo: Tensor) -> Tensor:
    """Magnitude of the luminance gradient, [H - 1, W - 1] in levels of 255."""
    grey = luminance(photo[None])[0] * 255
    return torch.hypot(grey.diff(dim=0)[:, :-1], grey.diff(dim=1)[:-1])


def measure(photo: Tensor, matrix: Tensor, kind: str) -> tuple[dict[str, float], Tensor]:
    before = warp_crops(photo, matrix, SIZE)
    after = CHANGES[kind](before).round().clamp(0, 255).to(torch.uint8)
    region = face_region(ellipse_mask(SIZE))
    weight = paste_weight(region, matrix, *photo.shape[1:])
    started = time.perf_counter()
    result = paste_back(photo, before, after, matrix, region)
    seconds = time.perf_counter() - started
    left_alone = bool(already_sharp(before, after)[0])
    pixels = resample(after[0], matrix[0], *photo.shape[1:])
    naive = (photo + weight * (pixels - photo)).round().clamp(0, 255).to(torch.uint8)
    inner = weight[:-1, :-1]
    band, core = (inner > 0) & (inner < 1), inner > 0.5
    old, new, other = gradient(photo), gradient(result), gradient(naive)
    numbers = {
        "touched_outside": float((result != photo)[:, weight == 0].sum()),
        "seam": float(np.percentile(new[band], 99) / np.percentile(old[band], 99)),
        "sharpness": 1.0 if left_alone else float(new[core].square().mean() / old[core].square().mean()),
        "sharpness_unguarded": float(new[core].square().mean() / old[core].square().mean()),
        "sharpness_pixels": float(other[core].square().mean() / old[core].square().mean()),
        "left_alone": float(left_alone),
        "milliseconds": 1000 * seconds,
    }
    return numbers, result


def faces_of(path: Path | None) -> list[tuple[str, Tensor, Tensor]]:
    """Name, photo and matrix [1, 2, 3] of each face larger than the crop."""
    if path is None:
        photo = drawn_photo()
        landmarks = torch.from_numpy(FFHQ_TEMPLATE) * 900 + torch.tensor([300.0, 150.0])
        return [("drawn", photo, similarity(landmarks, FFHQ_TEMPLATE, SIZE))]
    from rayface.detector import load_detector

    detector, faces = load_detector(), []
    for file in sorted(f for f in path.iterdir() if f.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}):
        photo = decode(file.read_bytes())
        found = detector.detect([photo])[0]
        for index in range(len(found)):
            matrix = similarity(found.landmarks[index], FFHQ_TEMPLATE, SIZE)
            if float(scales(matrix)) < 1:
                faces.append((f"{file.stem}-{index}", photo, matrix))
    return faces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photos with faces larger than 256 px")
    parser.add_argument("--pictures", type=Path, help="write before and after here")
    arguments = parser.parse_args()
    faces = faces_of(arguments.photos)
    report: dict[str, object] = {"faces": len(faces), "face_px": [round(SIZE / float(scales(m))) for *_, m in faces]}
    for kind in CHANGES:
        rows = []
        for name, photo, matrix in faces:
            numbers, result = measure(photo, matrix, kind)
            rows.append(numbers)
            if arguments.pictures:
                arguments.pictures.mkdir(parents=True, exist_ok=True)
                (arguments.pictures / f"{name}-{kind}.png").write_bytes(encode(result))
        report[kind] = {key: round(WORST.get(key, min)(row[key] for row in rows), 4) for key in rows[0]}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
