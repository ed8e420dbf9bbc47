"""A dataset of random smooth patterns, for pinned numbers: it must not change when the drawing of faces does."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from rayface.data.shards import shard_name, write_manifest, write_shard
from rayface.imaging.codec import encode, encode_mask
from rayface.randomness import generator
from rayface.records import FFHQ_TEMPLATE, PARSING_CLASSES

SIZE = 64


def write_patterns(folder: Path, count: int = 32) -> None:
    """`count` records of 64 px: blurred noise pictures, masks of their brightness in 19 steps."""
    rows = []
    for index in range(count):
        coarse = generator(0, 0, index, "patterns").random((1, 3, 6, 6), dtype=np.float32)
        smooth = interpolate(torch.from_numpy(coarse), size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)[0]
        picture = (smooth * 255).round().to(torch.uint8)
        mask = (smooth.mean(0) * (len(PARSING_CLASSES) - 0.01)).to(torch.uint8)
        rows.append(
            {
                "id": f"pattern-{index}",
                "source": "patterns",
                "split": "train",
                "identity": f"pattern-{index // 4}",
                "image": encode(picture, "png"),
                "size": SIZE,
                "landmarks": (FFHQ_TEMPLATE * SIZE).ravel().tolist(),
                "mask": encode_mask(mask),
                "facial_hair_mask": None,
                "attributes": [1 if value > 0.5 else -1 for value in coarse.ravel()[:40]],
            }
        )
    write_shard(rows, str(folder / shard_name(0)))
    write_manifest(str(folder), format="patterns", size=SIZE)
