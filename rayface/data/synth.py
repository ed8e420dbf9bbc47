"""Drawn faces with exact ground truth: the offline default training data and the load generator for clusters.

Every record is a function of (seed, index) alone. Four records in a row are pictures of one person (other
pose, expression, light, hat, glasses ...). Masks, landmarks, facial-hair masks and attributes are what was
drawn, not estimates; an attribute that something hides is 0 (unknown). `Attractive` is a drawn proxy (an even
face and smooth skin, independent of sex and skin tone) so that the networks that need the label can train; it
says nothing about people. Figures measured on drawn faces are never figures about photos.
"""

import functools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayface import records, storage
from rayface.data import shards
from rayface.data.drawing.background import draw_background
from rayface.data.drawing.canvas import Canvas
from rayface.data.drawing.head import chin, landmarks
from rayface.data.drawing.person import Identity, Look, draw_identity, draw_look
from rayface.data.drawing.portrait import draw_portrait, photograph
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.randomness import generator

RECORDS_PER_IDENTITY = 4
RECORDS_PER_SHARD = 256
SMALL_COUNT = 64  # below this a cluster takes longer to start than the drawing takes
SIZES = (32, 1024)
OPTIONS = "synth.json"  # what an unfinished dataset is being made with
# The template's eye distance as a share of the crop's side.
EYE_DISTANCE = float(np.hypot(*(records.FFHQ_TEMPLATE[1] - records.FFHQ_TEMPLATE[0])))


@dataclass(frozen=True)
class DrawnFace:
    """One drawn crop and its truth.

    `image` uint8 [3, S, S] RGB; `mask` uint8 [S, S] of `records.PARSING_CLASSES`; `facial_hair` uint8 [S, S],
    0 or 255; `landmarks` float32 [5, 2] in pixels; `attributes` int8 [40]: 1 yes, -1 no, 0 hidden or unknown.
    """

    image: Tensor
    mask: Tensor
    facial_hair: Tensor
    landmarks: np.ndarray
    attributes: np.ndarray
    identity: str
    split: str
    facial_hair_style: str


@dataclass(frozen=True)
class DrawnScene:
    """A photo of several people: `photo` uint8 [3, H, W], `boxes` float32 [k, 4] (x0 y0 x1 y1 around the skin
    from brows to chin), `landmarks` float32 [k, 5, 2]; rows from the back to the front."""

    photo: Tensor
    boxes: Tensor
    landmarks: Tensor


def split_of(identity: int) -> str:
    """Every tenth identity is for validation (3, 13, ...), every tenth for test (7, 17, ...)."""
    return {3: "validation", 7: "test"}.get(identity % 10, "train")


def draw_face(seed: int, index: int, size: int = 256) -> DrawnFace:
    """Record `index` of the endless dataset `seed`, aligned as FFHQ crops of `size` pixels are.

    Raises RayfaceError when the size cannot be drawn.
    """
    _check(SIZES[0] <= size <= SIZES[1], f"size is {size}; choose {SIZES[0]} to {SIZES[1]} pixels")
    _check(seed >= 0 and index >= 0, f"seed {seed} and index {index} must not be negative")
    identity = index // RECORDS_PER_IDENTITY
    who, rng = identity_of(seed, identity), generator(seed, 0, index, "synth-look")
    look = draw_look(rng, who)
    canvas = Canvas(size, size, EYE_DISTANCE * size)
    draw_background(canvas, rng)
    # Alignment by a detector is never exact: a pixel or so at 256.
    target = records.FFHQ_TEMPLATE * size + rng.normal(0, 0.012, 2) * canvas.unit
    portrait = draw_portrait(canvas, target, who, look, rng)
    return DrawnFace(
        image=torch.from_numpy(photograph(canvas, look, rng)),
        mask=torch.from_numpy(canvas.labels),
        facial_hair=torch.from_numpy(canvas.facial_hair.astype(np.uint8) * 255),
        landmarks=portrait.landmarks,
        attributes=portrait.attributes,
        identity=f"synth-{seed}-{identity}",
        split=split_of(identity),
        facial_hair_style=look.beard,
    )


def draw_scene(seed: int, index: int, size: tuple[int, int] = (480, 640), faces: int = 3) -> DrawnScene:
    """A photo of `size` (height, width) with `faces` people who do not cover each other's faces.

    Raises RayfaceError when there is no room: a face needs about 40 pixels.
    """
    height, width = size
    rng = generator(seed, 0, index, "synth-scene")
    _check(faces >= 0, f"faces is {faces}; it must not be negative")
    columns = max(1, round(float(np.sqrt(faces * width / height)))) if faces else 1
    rows = -(-faces // columns) if faces else 1
    cell_width, cell_height = width / columns, height / rows
    room = min(cell_width / 3.6, cell_height / 4.6)
    _check(room >= 10 or not faces, f"{faces} faces do not fit in {width} x {height} pixels; ask for fewer or enlarge")
    canvas = Canvas(height, width, max(room, 1.0))
    draw_background(canvas, rng)
    cells = sorted(rng.permutation(rows * columns)[:faces].tolist())  # upper rows first: they stand behind
    light = draw_look(rng, identity_of(seed, 0))
    found, boxes = [], []
    for number, cell in enumerate(cells):
        who = identity_of(seed, int(rng.integers(2**31)))
        look = replace(
            draw_look(rng, who),
            **{k: getattr(light, k) for k in ("light_azimuth", "light_height", "light_key", "light_colour")},
            roll=0.0,
        )
        unit = room * rng.uniform(0.72, 1.0)
        free_x, free_y = cell_width - 3.2 * unit, cell_height - 4.2 * unit
        middle_x = (cell % columns) * cell_width + 1.6 * unit + rng.uniform(0, 1) * free_x
        middle_y = (cell // columns) * cell_height + 2.2 * unit + rng.uniform(0, 1) * free_y
        target = _placed(unit, middle_x, middle_y, float(rng.normal(0, 0.1)))
        points = draw_portrait(canvas, target, who, look, generator(seed, number, index, "synth-person")).landmarks
        found.append(points)
        boxes.append(_face_box(points, who, look))
    photo = photograph(canvas, replace(light, blurry=False), rng)
    return DrawnScene(
        photo=torch.from_numpy(photo),
        boxes=torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        landmarks=torch.tensor(np.array(found, np.float32).reshape(-1, 5, 2)),
    )


def identity_of(seed: int, identity: int) -> Identity:
    return draw_identity(generator(seed, 0, identity, "synth-identity"))


def _placed(unit: float, x: float, y: float, roll: float) -> np.ndarray:
    """The template with eye distance `unit`, the eyes' middle at (x, y), turned by `roll` radians: [5, 2]."""
    centred = (records.FFHQ_TEMPLATE - records.FFHQ_TEMPLATE[:2].mean(0)) * (unit / EYE_DISTANCE)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return centred @ turn.T + (x, y)


def _face_box(points: np.ndarray, who: Identity, look: Look) -> np.ndarray:
    """A square-ish box from the brows' upper edge to the chin, from the pixels of the five points."""
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    unit = float(np.hypot(*down)) / (landmarks(who, look)[3:, 1].mean())
    middle = eyes + down * 0.45
    half_height = unit * (chin(who, look) + 0.75) / 2
    return np.array(
        [middle[0] - 1.05 * unit, middle[1] - half_height, middle[0] + 1.05 * unit, middle[1] + half_height]
    )


def face_record(seed: int, index: int, size: int) -> dict[str, Any]:
    """Record `index` as a row of `records.FACE_SCHEMA`."""
    face = draw_face(seed, index, size)
    return {
        "id": f"synth/{seed}/{index:08d}",
        "source": "synth",
        "split": face.split,
        "identity": face.identity,
        "image": codec.encode(face.image, "jpeg", 95),
        "size": size,
        "landmarks": face.landmarks.ravel().tolist(),
        "mask": codec.encode_mask(face.mask),
        "facial_hair_mask": _encode_sparse(face.facial_hair),
        "attributes": face.attributes.tolist(),
    }


@functools.cache
def _blank_mask(size: int) -> bytes:
    return codec.encode_mask(torch.zeros(size, size, dtype=torch.uint8))


def _encode_sparse(mask: Tensor) -> bytes:
    """As `codec.encode_mask`; quicker for the many masks that are empty."""
    return codec.encode_mask(mask) if mask.any() else _blank_mask(mask.shape[-1])


def synthesise(
    out: str, count: int, size: int = 256, seed: int = 0, workers: int | None = None, start: int = 0
) -> dict[str, Any]:
    """Write records `start` ... `start + count - 1` of dataset `seed` to the folder or bucket address `out`.

    With more than one worker the shards are drawn as Ray tasks (on the cluster Ray is connected to, or
    on this machine), at most `workers` at a time; else in this process. A stopped run is finished by the same
    call: shards that exist are kept.

    Returns:
        The manifest (`dataset.json`) and `drawn`, `kept` (records) and `seconds`.

    Raises RayfaceError for impossible arguments, or when `out` holds a dataset that was made otherwise.
    """
    _check(count > 0, f"count is {count}; ask for at least 1 face")
    _check(SIZES[0] <= size <= SIZES[1], f"size is {size}; choose {SIZES[0]} to {SIZES[1]} pixels")
    _check(seed >= 0 and start >= 0, f"seed {seed} and start {start} must not be negative")
    _check(workers is None or workers >= 0, f"workers is {workers}; leave it out for all cores")
    began = time.monotonic()
    address = storage.absolute(out)
    filesystem, folder = storage.open_filesystem(address)
    options = {"seed": seed, "size": size, "start": start, "count": count}
    _claim(filesystem, folder, options)
    shards.remove_temporary(filesystem, folder)
    finished = set(shards.list_shards(filesystem, folder))
    todo: list[dict[str, Any]] = [
        {"address": address, "shard": shard, "first": first, "last": last, "seed": seed, "size": size}
        for shard, first, last in _chunks(start, count)
        if shards.shard_name(shard) not in finished
    ]
    drawn = sum(chunk["last"] - chunk["first"] for chunk in todo)
    if workers is None:
        workers = 1 if drawn <= SMALL_COUNT else os.cpu_count() or 1
    if workers > 1 and len(todo) > 1:
        _draw_on_ray(todo, workers)
    else:
        for chunk in todo:
            write_chunk(chunk)
    manifest = shards.write_manifest(folder, filesystem, format="synth", size=size, options=options)
    return {**manifest, "drawn": drawn, "kept": count - drawn, "seconds": round(time.monotonic() - began, 3)}


def _chunks(start: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(shard number, first record, record after the last) of each shard."""
    for shard, first in enumerate(range(start, start + count, RECORDS_PER_SHARD)):
        yield shard, first, min(first + RECORDS_PER_SHARD, start + count)


def write_chunk(chunk: dict[str, Any]) -> None:
    """Draw and write one shard: one Ray task. A shard that is there already is written again, the same."""
    filesystem, folder = storage.open_filesystem(chunk["address"])
    rows = [face_record(chunk["seed"], index, chunk["size"]) for index in range(chunk["first"], chunk["last"])]
    shards.write_shard(rows, f"{folder}/{shards.shard_name(chunk['shard'])}", filesystem)


def _draw_on_ray(todo: list[dict[str, Any]], workers: int) -> None:
    import ray

    from rayface.ray_session import connect

    connect(quiet=True)
    draw = ray.remote(num_cpus=1)(write_chunk)
    running: list[ray.ObjectRef] = []
    try:
        for chunk in todo:
            if len(running) >= workers:
                finished, running = ray.wait(running)
                ray.get(finished)  # raises what the task raised
            running.append(draw.remote(chunk))
        ray.get(running)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RayfaceError):
            raise error.cause from error
        raise


def _claim(filesystem: Any, folder: str, options: dict[str, int]) -> None:
    """Write down what the dataset is made with, or check that what is there was made the same way."""
    for name, key in ((shards.MANIFEST, "options"), (OPTIONS, None)):
        try:
            with filesystem.open_input_stream(f"{folder}/{name}") as stream:
                found = json.loads(stream.read())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise RayfaceError(
                f"{folder}/{name} cannot be read ({error}); delete the folder or choose another"
            ) from error
        found = found.get(key) if key else found
        if found != options:
            raise RayfaceError(
                f"{folder} holds a dataset made with {found}, not with {options}; choose another folder or delete it",
                status=409,
                kind="dataset-exists",
            )
        return
    if shards.list_shards(filesystem, folder):
        raise RayfaceError(
            f"{folder} holds shards of something else; choose another folder", status=409, kind="dataset-exists"
        )
    storage.write_bytes(json.dumps(options).encode(), f"{folder}/{OPTIONS}", filesystem)


def _check(good: bool, message: str) -> None:
    if not good:
        raise RayfaceError(f"synth: {message}")
