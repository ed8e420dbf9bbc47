"""The data the released recogniser learns from: two ingested sets in one, without anybody of the held-out faces.

    python benchmarks/recognition_data.py CELEBA CELEBAMASK OUT

CELEBA, CELEBAMASK: datasets of `rayface data ingest` (--format celeba, --format celebamask). CelebAMask-HQ derives from
CelebA, so its photos may show people of CelebA's test or validation split: a photo whose embedding (dlib's) is nearer
than 0.55 to one of those is left out. OUT gets the train splits of both as one dataset; the validation split is
CELEBA's. Prints how many photos of each split of CELEBAMASK look like somebody held out, at several distances, and
which share of CelebA's labelled same-person pairs of the test split each distance catches.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rayface.data.dataset import FaceDataset
from rayface.data.shards import shard_name, write_manifest, write_shard
from rayface.evaluation.verification import make_pairs
from rayface.imaging.codec import to_float
from rayface.pretrained import load_pretrained

NEAR = 0.55  # see the recall on labelled pairs that is printed
SHOWN = (0.4, 0.45, 0.5, 0.55, 0.6)
ROWS_PER_SHARD = 256


@torch.inference_mode()
def embeddings(dataset: FaceDataset) -> np.ndarray:
    network = load_pretrained("pretrained:dlib")
    parts = []
    for start in range(0, len(dataset), 32):
        images = dataset.batch(range(start, min(start + 32, len(dataset))))["image"]
        assert isinstance(images, torch.Tensor)
        parts.append(network(to_float(images)))
    return torch.cat(parts).numpy()


def nearest(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Distance of each of `ours` to the nearest of `theirs`."""
    return np.linalg.norm(ours[:, None] - theirs[None], axis=2).min(1)


def rows_of(folder: str, wanted: dict[str, str]) -> list[dict[str, Any]]:
    """The records whose id is in `wanted`, each with the id that it maps to."""
    manifest = json.loads(Path(folder, "dataset.json").read_text())
    tables = [pq.read_table(f"{folder}/{entry['name']}") for entry in manifest["shards"]]
    found = pa.concat_tables(tables, promote_options="default").to_pylist()
    return [{**row, "id": wanted[row["id"]]} for row in found if row["id"] in wanted]


def _print_recall(embedded: np.ndarray, identities: list[str | None]) -> None:
    _, names = np.unique([str(name) for name in identities], return_inverse=True)
    pairs = make_pairs(names)
    distance = np.linalg.norm(embedded[pairs.first] - embedded[pairs.second], axis=1)
    for kind, chosen in (("same", pairs.same), ("different", ~pairs.same)):
        shares = {limit: round(float((distance[chosen] < limit).mean()), 4) for limit in SHOWN}
        print(f"celeba test: share of {chosen.sum()} {kind} pairs nearer than d: {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("celeba", "celebamask", "out"):
        parser.add_argument(name)
    given = parser.parse_args()
    held_out = [FaceDataset(given.celeba, split) for split in ("validation", "test")]
    people = np.concatenate([embeddings(dataset) for dataset in held_out])
    test = people[len(held_out[0]) :]
    _print_recall(test, held_out[1].identities)
    kept: list[str] = []
    for split in ("train", "validation", "test"):
        faces = FaceDataset(given.celebamask, split)
        ours = embeddings(faces)
        for name, theirs in (("test", test), ("validation or test", people)):
            near = nearest(ours, theirs)
            counts = {limit: int((near < limit).sum()) for limit in SHOWN}
            print(f"celebamask {split}: {len(faces)} photos; nearer than d to somebody of celeba {name}: {counts}")
        if split == "train":
            kept = [face for face, far in zip(faces.ids, near >= NEAR, strict=True) if far]
    train = FaceDataset(given.celeba, "train").ids
    rows = rows_of(given.celeba, {face: f"celeba/{face}" for face in [*train, *held_out[0].ids]})
    rows += rows_of(given.celebamask, {face: f"celebamask/{face}" for face in kept})
    for start in range(0, len(rows), ROWS_PER_SHARD):
        write_shard(rows[start : start + ROWS_PER_SHARD], f"{given.out}/{shard_name(start // ROWS_PER_SHARD)}")
    size = FaceDataset(given.celeba).stored_size
    terms = {"terms": "CelebA, CelebAMask-HQ: non-commercial research", "commercial_use": False}
    manifest = write_manifest(given.out, format="celeba+celebamask", size=size, terms=terms)
    print(f"{given.out}: {len(train)} of celeba, {len(kept)} of celebamask; splits {manifest['splits']}")


if __name__ == "__main__":
    main()
