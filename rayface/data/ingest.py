"""Photos to data sets with Ray Data: one chunk of the sorted source list, one task, one shard.

A shard is written under a temporary name and renamed, and carries its chunk's rejected pictures in its
metadata: it is there whole or not at all. So a stopped ingest, started again, skips what is finished and
doubles nothing.
"""

import dataclasses
import functools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

from rayface import records, storage
from rayface.data import shards
from rayface.data.crops import CropMaker, CropOptions, Rejection
from rayface.data.passes import Tell, as_value, claim, run_pass
from rayface.data.sources import Item, Source, find_items
from rayface.errors import RayfaceError

PLAN = "ingest.json"  # what the data set is being made from; compared when an ingest is resumed
REJECTED_KEY = "rayface.rejected"
DETECTED_KEY = "rayface.detected"  # whose landmarks the shard holds, and of how many faces
STATED = ("sha256", "licence", "terms", "commercial_use")  # what dataset.json keeps of the detector


def ingest(
    source: str | Path,
    out: str | Path,
    format: str,
    size: int = 256,
    align: str = "auto",
    image_format: str = "jpeg",
    quality: int = 95,
    chunk: int = 128,
    workers: int | None = None,
    max_faces: int = 16,
    min_face: int = 40,
    limit: int | None = None,
    tell: Tell | None = None,
    terms: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the data set `out` of the photos in `source`; both are folders or addresses such as s3://bucket/folder.

    `format` is one of `sources.FORMATS`; for `size` (pixels), `align`, `image_format`, `quality`, `max_faces`
    and `min_face` see `crops.CropOptions`. `chunk` photos make a shard; `workers` processes work at most (all
    CPUs of the cluster by default); only the first `limit` photos are taken. Runs on the Ray cluster this
    process or RAY_ADDRESS is connected to, else on a local one. `tell` is given progress and remarks. `terms`
    (`terms`, `commercial_use`; see `rayface.terms`) is for photos whose terms the format does not tell.

    Gives a summary: faces, splits, identities, rejected (by reason), photos, photos read now, seconds. What
    was left out is listed with the reason in rejected.csv; `labelled_by` of dataset.json says in how many faces the
    landmarks are the detector's, and which one's.

    Raises RayfaceError for impossible options, a source that does not fit the format, an `out` that holds
    something else or cannot be written.
    """
    began = time.monotonic()
    tell = tell or (lambda _: None)
    options = CropOptions(format, size, align, image_format, quality, max_faces, min_face)
    if chunk < 1 or (workers is not None and workers < 1):
        raise RayfaceError(f"ingest: chunk {chunk} and workers {workers} must be at least 1.")
    found = find_items(source, format, limit)
    if align == "landmarks" and not any(item.landmarks for item in found.items):
        raise RayfaceError(
            f"{source} has no landmarks for --align landmarks; put landmarks.csv or "
            "list_landmarks_align_celeba.txt there, or use --align detect.",
            kind="no-landmarks",
        )
    for note in found.notes:
        tell(f"{source}: {note}")
    filesystem, folder = storage.open_filesystem(out)
    plan = _plan(options, chunk, found)
    claim(filesystem, folder, plan, PLAN)
    shards.remove_temporary(filesystem, folder)
    chunks = [found.items[start : start + chunk] for start in range(0, len(found.items), chunk)]
    finished = set(shards.list_shards(filesystem, folder))
    todo = {n: items for n, items in enumerate(chunks) if shards.shard_name(n) not in finished}
    if finished:
        tell(f"{len(chunks) - len(todo)} of {len(chunks)} shards are finished already")
    if todo:
        _run(todo, options, str(source), str(out), workers, tell)
    rejected = _write_rejected(filesystem, folder, found)
    manifest = shards.write_manifest(
        folder,
        filesystem,
        format=format,
        size=size,
        options=plan,
        rejected=Counter(row[1] for row in rejected),
        terms=terms,
        further=_labelled_by(filesystem, folder),
    )
    photos = sum(len(items) for items in todo.values())
    return {
        **{key: manifest[key] for key in ("faces", "splits", "identities", "columns", "rejected")},
        "photos": len(found.items),
        "photos_read": photos,
        "seconds": round(time.monotonic() - began, 2),
    }


def _plan(options: CropOptions, chunk: int, found: Source) -> dict[str, Any]:
    return {
        **dataclasses.asdict(options),
        "chunk": chunk,
        "photos": len(found.items),
        "source": found.digest(),
        "schema": records.SCHEMA_VERSION,
    }


@functools.lru_cache(maxsize=1)
def _crop_maker(options: CropOptions, source: str) -> CropMaker:
    """Kept from task to task: Ray runs them in the same worker processes, which so load the detector once."""
    return CropMaker(options, storage.open_filesystem(source)[0])


def write_chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    """The task of one Ray worker: a chunk of photos in, its shard written, counts out."""
    items = [Item(**values) for values in json.loads(chunk["items"])]
    maker = _crop_maker(CropOptions(**json.loads(chunk["options"])), chunk["source"])
    faces, rejected = maker.records(items)
    notes = {REJECTED_KEY: json.dumps(rejected)}
    given = {item.id for item in items if not maker.options.detects(item)}
    if detected := sum(face["id"] not in given for face in faces):
        stated = {key: value for key, value in maker.detector.info.items() if key in STATED}
        notes[DETECTED_KEY] = json.dumps({"model": maker.detector.model, **stated, "faces": detected})
    filesystem, folder = storage.open_filesystem(chunk["out"])
    error = ""
    try:
        path = f"{folder}/{shards.shard_name(chunk['shard'])}"
        shards.write_shard(faces, path, filesystem, notes)
    except RayfaceError as caught:
        error = as_value(caught)
    return {"done": len(items), "faces": len(faces), "error": error}


def _run(
    todo: dict[int, list[Item]], options: CropOptions, source: str, out: str, workers: int | None, tell: Tell
) -> None:
    common = {
        "options": json.dumps(dataclasses.asdict(options)),
        "source": storage.absolute(source),
        "out": storage.absolute(out),
    }
    chunks = [
        {"shard": number, "items": json.dumps([dataclasses.asdict(item) for item in items]), **common}
        for number, items in todo.items()
    ]
    run_pass(write_chunk, chunks, sum(len(items) for items in todo.values()), "photos", tell, workers)


def _notes(filesystem: fs.FileSystem, folder: str, key: str) -> Iterator[Any]:
    """What `write_chunk` noted under `key` in the metadata of each shard that has it."""
    for name in shards.list_shards(filesystem, folder):
        with shards.open_shard(f"{folder}/{name}", filesystem) as shard:
            noted = (shard.schema_arrow.metadata or {}).get(key.encode())
        if noted is not None:
            yield json.loads(noted)


def _labelled_by(filesystem: fs.FileSystem, folder: str) -> dict[str, Any]:
    """`{"labelled_by": {"landmarks": [...]}}` as `rayface data label` writes it; {} where nothing was detected."""
    found: dict[str, dict[str, Any]] = {}  # two where a newer detector came between a stop and the resume
    for entry in _notes(filesystem, folder, DETECTED_KEY):
        total = found.setdefault(entry["sha256"], {**entry, "faces": 0})
        total["faces"] += entry["faces"]
    return {"labelled_by": {"landmarks": list(found.values())}} if found else {}


def _write_rejected(filesystem: fs.FileSystem, folder: str, found: Source) -> list[Rejection]:
    noted = _notes(filesystem, folder, REJECTED_KEY)
    rejected = [*found.rejected, *((row[0], row[1], row[2]) for rows in noted for row in rows)]
    shards.write_rejected(rejected, folder, filesystem)
    return rejected
