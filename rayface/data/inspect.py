"""What a dataset holds: counts, and a picture of some of its faces with what is known about them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from rayface import records
from rayface.data.dataset import FaceDataset
from rayface.data.shards import read_manifest
from rayface.errors import RayfaceError
from rayface.storage import open_filesystem, write_bytes

_CELL = 160
_LANDMARK_COLOURS = ("#ff4040", "#40ff40", "#ffff40", "#40c0ff", "#ff60ff")


def inspect(path: str | Path) -> dict[str, Any]:
    """Counts of a dataset: faces per split, people per split, optional columns, attributes, rejected pictures.

    `attributes` gives for each of CelebA's 40 the number of faces that have it and the number labelled at
    all. Raises RayfaceError when there is no finished dataset.
    """
    filesystem, folder = open_filesystem(path)
    manifest = read_manifest(folder, filesystem)
    people: dict[str, int] = {}
    attributes: dict[str, dict[str, int]] = {}
    for split, count in manifest["splits"].items():
        if not count:
            people[split] = 0
            continue
        faces = FaceDataset(path, split)
        people[split] = len({name for name in faces.identities if name is not None})
        if manifest["columns"]["attributes"]:
            _count_attributes(faces, attributes)
    return {
        "format": manifest["format"],
        "size": manifest["size"],
        "faces": manifest["faces"],
        "splits": manifest["splits"],
        "identities": people,
        "columns": manifest["columns"],
        "attributes": attributes,
        "rejected": manifest["rejected"],
        "shards": len(manifest["shards"]),
        "digest": FaceDataset(path).digest if manifest["faces"] else None,
        "options": manifest["options"],
    }


def _count_attributes(faces: FaceDataset, counts: dict[str, dict[str, int]]) -> None:
    for start in range(0, len(faces), 1024):
        chunk = range(start, min(start + 1024, len(faces)))
        values = faces.batch(list(chunk), ("attributes",))["attributes"]
        assert isinstance(values, torch.Tensor)
        for name, column in zip(records.ATTRIBUTES, values.T, strict=True):
            count = counts.setdefault(name, {"yes": 0, "labelled": 0})
            count["yes"] += int((column == 1).sum())
            count["labelled"] += int((column != 0).sum())


def write_grid(path: str | Path, picture: str | Path, count: int = 24, columns: int = 6) -> None:
    """Write a PNG of `count` faces spread over the dataset: each crop with its landmarks, and where there is a mask,
    the mask in colours below it.

    Raises RayfaceError when there is no finished dataset or the picture cannot be written.
    """
    if count < 1 or columns < 1:
        raise RayfaceError(f"A grid of {count} faces in {columns} columns makes no sense; give positive numbers.")
    faces = FaceDataset(path, size=_CELL)
    chosen = np.unique(np.linspace(0, len(faces) - 1, min(count, len(faces))).astype(int))
    cells = [_cell(faces, int(index)) for index in chosen]
    width, height = _CELL, max(cell.height for cell in cells)
    rows = -(-len(cells) // columns)
    grid = Image.new("RGB", (min(columns, len(cells)) * width, rows * height), "white")
    for number, cell in enumerate(cells):
        grid.paste(cell, (number % columns * width, number // columns * height))
    buffer = io.BytesIO()
    grid.save(buffer, "PNG")
    filesystem, inner = open_filesystem(picture)
    write_bytes(buffer.getvalue(), inner, filesystem)


def _cell(faces: FaceDataset, index: int) -> Image.Image:
    face = faces.batch([index], ("image", "landmarks", "identity", "split"))
    image, landmarks = face["image"], face["landmarks"]
    assert isinstance(image, torch.Tensor)
    assert isinstance(landmarks, torch.Tensor)
    shown = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(shown)
    for (x, y), colour in zip(landmarks[0].tolist(), _LANDMARK_COLOURS, strict=True):
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), outline=colour)
    draw.text((3, 1), f"{face['split'][0]} {face['identity'][0] or ''}", fill="white", stroke_width=1, stroke_fill=0)
    try:
        mask = faces.batch([index], ("mask",))["mask"]
    except RayfaceError:
        return shown  # this face has no mask
    assert isinstance(mask, torch.Tensor)
    below = Image.new("RGB", (_CELL, 2 * _CELL))
    below.paste(shown, (0, 0))
    below.paste(Image.fromarray(records.PARSING_COLOURS[mask[0].numpy()]), (0, _CELL))
    return below
