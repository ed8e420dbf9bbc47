"""What `rayface data label` is worth on photos whose people are known, as JSON.

    python benchmarks/labelling.py PHOTOS LABELS --model embeddings=pretrained:dlib

PHOTOS are CelebA's first 999 (`rayface data fetch celeba-mini`), given as an unlabelled folder; LABELS is a folder with
identity.csv, which only this script reads. `different_people_train` is what a threshold is chosen by: the share of
pairs of different people of the train split that are as alike. `people` are the groups found at the threshold, judged
on pairs of the test split (every same-person pair of celeba-mini is there). `near_duplicates` are copies made of
validation and test photos: recompressed, made smaller, enlarged, cropped by up to 6 %; false alarms are pairs among
the originals. `--store` and `--with` as for the command.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rayface.data import celeba_labels
from rayface.data.dataset import FaceDataset
from rayface.data.grouping import alike, connected, person_groups
from rayface.data.splits import celeba_splits
from rayface.labelling.groups import COSINES, GroupOptions
from rayface.labelling.labeller import LabelOptions
from rayface.labelling.run import IngestOptions, label
from rayface.ray_session import connect

THRESHOLDS = (0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--with", dest="labels_wanted", default="masks,embeddings,sharpness")
    parser.add_argument("--model", action="append", default=[], help="label=reference")
    parser.add_argument("--store", default="")
    parser.add_argument("--same-person", type=float, default=0.0, help="0: the recogniser's own")
    parser.add_argument("--copies", type=int, default=60, help="photos of which four copies each are made")
    options = parser.parse_args()
    connect(quiet=True)
    models = dict(text.split("=", 1) for text in options.model)
    wanted = LabelOptions(tuple(options.labels_wanted.split(",")), models)
    with tempfile.TemporaryDirectory(prefix="rayface-label-") as scratch:
        began = time.perf_counter()
        groups = GroupOptions(same_person=options.same_person, duplicates="keep")
        summary = label(options.photos, f"{scratch}/out", wanted, groups, store=options.store, tell=print_err)
        seconds = time.perf_counter() - began
        report = {
            "photos": len(list(options.photos.glob("*.jpg"))),
            "summary": {key: summary[key] for key in ("faces", "splits", "groups", "rejected")},
            "photos_per_second": round(len(list(options.photos.glob("*.jpg"))) / seconds, 2),
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "false_alarms_among_originals": (Path(scratch) / "out/duplicates.csv").read_text().splitlines()[1:],
            **people(f"{scratch}/out", options.labels),
            "near_duplicates": copies(options.photos, Path(scratch), options.copies),
        }
    print(json.dumps(report, indent=1))


def people(folder: str, labels: Path) -> dict[str, Any]:
    """The groups of `folder` against identity.csv: one face a photo, the largest."""
    who = celeba_labels.identities("identity.csv", (labels / "identity.csv").read_text())
    faces = FaceDataset(folder)
    threshold, perhaps = (faces.manifest["options"][name] for name in COSINES)
    rows = [row for row, face in enumerate(faces.ids) if face.endswith("#0")]
    photos = [Path(faces.ids[row]).stem for row in rows]
    columns = faces.batch(rows, ("embedding", "split"))
    vectors = columns["embedding"].numpy()  # type: ignore[union-attr]
    named = [str(faces.identities[row]) for row in rows]
    given = dict(zip(photos, columns["split"], strict=True))  # type: ignore[arg-type]
    split = celeba_splits(photos, who, {})
    train, test = ([row for row, photo in enumerate(photos) if split[photo] == name] for name in ("train", "test"))
    identity = np.array([who[photo] for photo in photos])
    upper = np.triu_indices(len(train), 1)
    similarity = (vectors[train] @ vectors[train].T)[upper]
    assert (identity[train][upper[0]] != identity[train][upper[1]]).all(), "a person has two photos in train"
    photos_of = Counter(identity.tolist())
    several = [name for name, count in photos_of.items() if count > 1]
    splits_of = {name: {given[p] for p, i in zip(photos, identity, strict=True) if i == name} for name in several}
    return {
        "different_people_train": {
            "pairs": len(similarity),
            "share_as_alike": {str(t): float((similarity >= t).mean()) for t in THRESHOLDS},
            "wrongly_joined_pairs": {str(t): joined(vectors[train], t) for t in THRESHOLDS},
        },
        "people_at": threshold,
        "largest_split_unit_of_train": largest_group(vectors[train], perhaps),
        "people": pairs_report(np.unique(named, return_inverse=True)[1][test], identity[test]),
        "connected_components_instead": pairs_report(components(vectors, threshold)[test], identity[test]),
        "known_people_with_two_photos": len(several),
        "of_them_in_two_splits": sum(len(held) > 1 for held in splits_of.values()),
        "of_them_in_two_splits_without_groups": expected_without(several, photos, identity),
    }


def expected_without(several: list[str], photos: list[str], identity: np.ndarray) -> int:
    """How many of these people a split by photo, as ingest makes of a folder, puts into two splits."""
    from rayface.data.splits import hashed_split

    held = {n: {hashed_split(f"{p}.jpg") for p, i in zip(photos, identity, strict=True) if i == n} for n in several}
    return sum(len(splits) > 1 for splits in held.values())


def largest_group(vectors: np.ndarray, threshold: float) -> int:
    return int(np.bincount(person_groups(vectors, alike(vectors, threshold), threshold)).max())


def joined(vectors: np.ndarray, threshold: float) -> int:
    sizes = np.bincount(person_groups(vectors, alike(vectors, threshold), threshold))
    return int((sizes * (sizes - 1) // 2).sum())


def components(vectors: np.ndarray, threshold: float) -> np.ndarray:
    pairs = alike(vectors, threshold)
    return connected(len(vectors), list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)))


def pairs_report(groups: np.ndarray, identity: np.ndarray) -> dict[str, Any]:
    """Recall and precision over pairs of faces, with bootstrap intervals of the recall over people."""
    first, second = np.triu_indices(len(groups), 1)
    same, together = identity[first] == identity[second], groups[first] == groups[second]
    hits = Counter(identity[first[same & together]].tolist())
    total = Counter(identity[first[same]].tolist())
    names = sorted(total)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(names), (1000, len(names)))
    table = np.array([(hits[name], total[name]) for name in names])
    shares = table[drawn, 0].sum(1) / table[drawn, 1].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return {
        "same_person_pairs": int(same.sum()),
        "found": int((same & together).sum()),
        "recall": {"value": float((same & together).sum() / same.sum()), "low": float(low), "high": float(high)},
        "different_people_joined": int((together & ~same).sum()),
        "precision": float((same & together).sum() / max(1, together.sum())),
        "people_wrongly_joined": len(
            {name for a, b in zip(first[together & ~same], second[together & ~same], strict=True) for name in
             (identity[a], identity[b])}
        ),
    }  # fmt: skip


def copies(photos: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Recall of near-duplicates by kind, over `count` photos of number 800 and above."""
    rng = random.Random(0)
    names = sorted(path.name for path in photos.glob("*.jpg") if int(path.stem) >= 800)
    chosen = rng.sample(names, min(count, len(names)))
    folder = scratch / "copies"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((photos / name).read_bytes())
    for name in chosen:
        for kind, copy, quality in variants(Image.open(photos / name).convert("RGB"), rng):
            copy.save(folder / f"{name[:-4]}_{kind}.jpg", quality=quality)
    label(folder, scratch / "unique", LabelOptions(("sharpness",)), photos=IngestOptions(min_face=24), tell=print_err)
    rows = [line.split(",") for line in (scratch / "unique/duplicates.csv").read_text().splitlines()[1:]]
    pairs = [(row[0].split("#")[0], row[1].split("#")[0]) for row in rows]
    # the sharpest of a photo's five pictures stays, whichever it is: paired with another of the same photo is found
    paired = {picture for a, b in pairs if a[:6] == b[:6] for picture in (a, b)}
    report: dict[str, Any] = {"photos": len(names), "copied": len(chosen)}
    for kind in ("compressed", "smaller", "larger", "cropped"):
        of_kind = [f"{name[:-4]}_{kind}.jpg" for name in chosen]
        report[kind] = sum(name in paired for name in of_kind)
    stays = Counter(Path(face).name[:6] for face in FaceDataset(scratch / "unique").ids)
    report["copied_photos_left_once"] = sum(stays[name[:6]] == 1 for name in chosen)
    report["false_alarms"] = sum(a[:6] != b[:6] for a, b in pairs)
    return report


def variants(picture: Image.Image, rng: random.Random) -> list[tuple[str, Image.Image, int]]:
    width, height = picture.size
    left, top, right, bottom = (rng.uniform(0, 0.06) for _ in range(4))
    box = (int(left * width), int(top * height), int(width - right * width), int(height - bottom * height))
    return [
        ("compressed", picture, 40),
        ("smaller", picture.resize((int(width * 0.6), int(height * 0.6)), Image.Resampling.LANCZOS), 90),
        ("larger", picture.resize((int(width * 1.7), int(height * 1.7)), Image.Resampling.BICUBIC), 80),
        ("cropped", picture.crop(box), 85),
    ]


def print_err(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
