"""Where our five landmarks lie in dlib's face chips: the constant CHIP_TEMPLATE of networks/recogniser.py.

    python benchmarks/dlib_template.py PHOTOS

PHOTOS: a celeba-mini folder (`rayface data fetch celeba-mini`) with photos/, landmarks.csv and identity.csv. Means over
the train split (number below 800, person with one photo) in which dlib's detector finds the labelled face; dlib's
68-point predictor makes the chips (150 px, padding 0.25). Needs dlib (`make env` has it).
"""

import csv
import sys
from collections import Counter
from pathlib import Path

import dlib
import numpy as np

from rayface.pretrained.packages import data_file

SIDE, PADDING = 150, 0.25


def rows(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file))[1:]


def to_chip(points: np.ndarray, chip: dlib.chip_details) -> np.ndarray:
    """Photo pixels [P, 2] to the chip's: dlib turns by -angle about the rectangle's centre, then scales."""
    box = chip.rect
    centre = np.array([box.left() + box.right(), box.top() + box.bottom()]) / 2
    cosine, sine = np.cos(-chip.angle), np.sin(-chip.angle)
    turned = (points - centre) @ np.array([[cosine, -sine], [sine, cosine]]).T
    return turned * (SIDE - 1) / (box.right() - box.left()) + (SIDE - 1) / 2


def main(folder: Path) -> None:
    people = dict(rows(folder / "identity.csv"))
    photos_of = Counter(people.values())
    detect = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(
        str(data_file("face_recognition_models", "models/shape_predictor_68_face_landmarks.dat"))
    )
    found = []
    for name, *values in rows(folder / "landmarks.csv"):
        if int(Path(name).stem) >= 800 or photos_of[people[name]] > 1:
            continue
        points = np.array(values, float).reshape(5, 2)
        x, y = points.mean(0)
        photo = dlib.load_rgb_image(str(folder / "photos" / name))
        box = next((b for b in detect(photo, 1) if b.left() <= x <= b.right() and b.top() <= y <= b.bottom()), None)
        if box is not None:
            chip = dlib.get_face_chip_details(predict(photo, box), SIDE, PADDING)
            found.append(to_chip(points, chip) / SIDE)
    print(f"{len(found)} photos")
    print("mean", np.round(np.mean(found, 0), 5).tolist())
    print("standard deviation", np.round(np.std(found, 0), 3).tolist())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
