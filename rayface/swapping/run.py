"""`rayface data swaps`: a set of swapped faces and real ones, on which swap detection is trained (SPEC E6).

One pass of Ray Data: a chunk of rows, one shard. A shard is there whole or not at all, so a stopped run goes on; what
the set is made of is written down first and compared.
"""

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rayface import records, storage
from rayface.data import shards
from rayface.data.dataset import FaceDataset
from rayface.data.passes import Tell, as_value, claim, run_pass
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.store import ModelStore, open_store
from rayface.swapping.methods import Pairs, applied, find_method
from rayface.swapping.rows import NOBODY, Row, draw_rows
from rayface.terms import dataset_terms, inherited

PLAN = "swaps.json"
STATED = ("sha256", "licence", "terms", "commercial_use")  # what dataset.json keeps of a model
COPIED = ("id", "source", "split", "identity", "image", "landmarks", "mask", "attributes", "embedding")
TOGETHER = 8  # faces of one call of a method
STEPS = ("enhance", "beautify")  # that retouch a face and leave it who it is


@dataclasses.dataclass(frozen=True)
class SwapOptions:
    """method: one of methods.METHODS; model: reference of its model, "" the one named as its system; pairs, seed,
    retouch (steps) and retouch_share: see `rows.draw_rows`; quality: of the JPEGs; chunk: faces a shard."""

    method: str = "face_swap"
    model: str = ""
    pairs: int = 0
    seed: int = 0
    retouch: tuple[str, ...] = ()
    retouch_share: float = 0.25
    quality: int = 95
    chunk: int = 128

    def __post_init__(self) -> None:
        method = find_method(self.method)
        if self.model and not method.system:
            raise RayfaceError(f"swaps: {self.method} takes no model; leave --model {self.model} out.")
        if self.pairs < 0 or self.chunk < 1 or not 1 <= self.quality <= 100:
            raise RayfaceError(
                f"swaps: pairs {self.pairs} must be at least 0, chunk {self.chunk} at least 1 and quality "
                f"{self.quality} from 1 to 100."
            )
        if unknown := [step for step in self.retouch if step not in STEPS]:
            raise RayfaceError(f"swaps: --retouch {unknown[0]!r}: choose among {', '.join(STEPS)}.")
        if not 0 < self.retouch_share <= 1:
            raise RayfaceError(f"swaps: --retouch-share {self.retouch_share}: give a share above 0, at most 1.")


def make_swaps(
    source: str | Path,
    out: str | Path,
    options: SwapOptions | None = None,
    store: str = "",
    workers: int | None = None,
    gpu: bool = False,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Make the set `out` of the data set `source`: swaps within each split, real photos, and retouched ones.

    All are encoded anew and alike, so that the file tells nothing. `dataset.json` inherits the terms of the photos and
    the models and names these with their hashes under `swaps`. The same call again goes on where a stopped one was.

    Gives a summary. Raises RayfaceError, before any work, for a source without people, a model that is not in the store
    or of another system, terms that are refused, and an `out` that holds something else.
    """
    began = time.monotonic()
    tell, options = tell or (lambda _: None), options or SwapOptions()
    faces, opened = FaceDataset(source), open_store(store or None)
    models = find_models(options, opened)
    rows = _rows(faces, options)
    filesystem, folder = storage.open_filesystem(out)
    plan = {**_listed(options), "source": faces.digest, "sha256": {use: m["sha256"] for use, m in models.items()}}
    claim(filesystem, folder, plan, PLAN)
    shards.remove_temporary(filesystem, folder)
    task = json.dumps(
        {
            "options": _listed(options),
            "models": {use: model["model"] for use, model in models.items()},
            "source": storage.absolute(str(source)),
            "out": storage.absolute(str(out)),
            "store": storage.absolute(opened.uri),
            "device": "cuda" if gpu else "cpu",
        }
    )
    parts = [rows[start : start + options.chunk] for start in range(0, len(rows), options.chunk)]
    finished = set(shards.list_shards(filesystem, folder))
    todo = {number: part for number, part in enumerate(parts) if shards.shard_name(number) not in finished}
    if finished:
        tell(f"{len(parts) - len(todo)} of {len(parts)} shards are finished already")
    if todo:
        chunks = [{"shard": number, "rows": json.dumps(part), "task": task} for number, part in todo.items()]
        run_pass(Swapper, chunks, sum(map(len, todo.values())), "faces", tell, workers, gpu)
    made = Counter(_kind(row) for row in rows)
    manifest = shards.write_manifest(
        folder,
        filesystem,
        format="swaps",
        size=faces.stored_size,
        options=plan,
        terms=_terms(faces.manifest, models),
        further={"swaps": {"method": options.method, "models": models, **made}},
    )
    told = ("faces", "splits", "identities", "swaps", "terms", "commercial_use")
    return {**{key: manifest[key] for key in told}, "seconds": round(time.monotonic() - began, 2)}


def find_models(options: SwapOptions, store: ModelStore) -> dict[str, dict[str, Any]]:
    """`{method or step: {model: name@version, ...STATED}}` of what takes one."""
    from rayface.pipeline import check_model, default_models

    system = find_method(options.method).system
    wanted = {options.method: options.model or system} if system else {}
    wanted |= {step: default_models([step])[step] for step in options.retouch}
    found = {}
    for use, ref in wanted.items():
        info = check_model(store, use, ref) if use in options.retouch else store.usable(ref)
        if use == options.method and info["system"] != system:
            raise RayfaceError(f"swaps: --model {ref}: it is a model of {info['system']}, {use} needs one of {system}.")
        pinned = storage.absolute(ref) if "/" in ref else f"{info['name']}@{info['version']}"
        found[use] = {"model": pinned} | {key: info[key] for key in STATED if key in info}
    return found


def _rows(faces: FaceDataset, options: SwapOptions) -> list[Row]:
    """`draw_rows` of the source's faces that nobody changed."""
    columns = faces.batch(range(len(faces)), ("split", "swap_method", "retouched_by"))
    plain = [
        index
        for index, changed in enumerate(zip(columns["swap_method"], columns["retouched_by"], strict=True))
        if changed == (None, None)
    ]
    rows = draw_rows(
        [str(columns["split"][index]) for index in plain],
        [faces.identities[index] for index in plain],
        options.pairs,
        options.seed,
        options.retouch,
        options.retouch_share,
    )
    return [Row(plain[face], donor if donor == NOBODY else plain[donor], step) for face, donor, step in rows]


def _listed(options: SwapOptions) -> dict[str, Any]:
    return {**dataclasses.asdict(options), "retouch": list(options.retouch)}


def _kind(row: Row) -> str:
    return "swapped" if row.donor != NOBODY else "retouched" if row.step else "real"


def _terms(manifest: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    used = {str(model["model"]): model for model in models.values()}
    stated = inherited({"photos": dataset_terms(manifest), **used})
    return {key: stated[key] for key in ("terms", "commercial_use")}


class Swapper:
    """A process of the actor pool: makes one shard a call, and keeps the source and the models it loaded."""

    def __init__(self) -> None:
        self.made: Maker | None = None

    def __call__(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """`chunk`: shard (its number), rows and task, JSON; see `make_swaps`."""
        task, rows = json.loads(chunk["task"]), [Row(*row) for row in json.loads(chunk["rows"])]
        filesystem, folder = storage.open_filesystem(task["out"])
        try:
            self.made = self.made or Maker(task)
            written = [face for start in range(0, len(rows), TOGETHER) for face in self.made(rows[start:][:TOGETHER])]
            shards.write_shard(written, f"{folder}/{shards.shard_name(chunk['shard'])}", filesystem)
        except RayfaceError as error:
            return {"done": 0, "faces": 0, "error": as_value(error)}
        return {"done": len(rows), "faces": len(written), "error": ""}


class Maker:
    """Rows -> face records."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        from rayface.pipeline import load_step

        self.options = SwapOptions(**{**task["options"], "retouch": tuple(task["options"]["retouch"])})
        self.faces, self.models = FaceDataset(task["source"]), task["models"]
        store = open_store(task["store"])
        self.steps = {use: load_step(store, ref, task["device"]) for use, ref in self.models.items()}
        self.swap = find_method(self.options.method).make(self.steps.get(self.options.method))

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The records of some rows, in their order."""
        made: list[dict[str, Any]] = [{} for _ in rows]
        kinds = dict.fromkeys((row.donor != NOBODY, row.step) for row in rows)
        for swapped, step in kinds:
            places = [place for place, row in enumerate(rows) if (row.donor != NOBODY, row.step) == (swapped, step)]
            some = [rows[place] for place in places]
            faces = self._swaps(some) if swapped else self._photos(some, step)
            for place, face in zip(places, faces, strict=True):
                made[place] = face
        return made

    def _photos(self, rows: Sequence[Row], step: str) -> list[dict[str, Any]]:
        """Photos as they are, or retouched by a step."""
        held = self.faces.records([row.face for row in rows], COPIED)
        crops, landmarks, masks = _opened(held)
        changed = applied(self.steps[step], crops, landmarks, masks) if step else crops
        new = [{"id": f"{face['id']}~{step}", "retouched_by": self.models[step]} if step else {} for face in held]
        return [self._record(face, crop, more) for face, crop, more in zip(held, changed, new, strict=True)]

    def _swaps(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        sides = [row.face for row in rows], [row.donor for row in rows]
        held = [self.faces.records(side, COPIED) for side in sides]
        (texture, texture_points, texture_masks), (donor, donor_points, donor_masks) = map(_opened, held)
        swapped = self.swap(Pairs(texture, donor, texture_points, donor_points, texture_masks, donor_masks))
        written = []
        for photo, giver, crop in zip(*held, swapped, strict=True):
            new = {
                "id": f"{photo['id']}+{giver['id']}",
                "identity": giver["identity"],
                "attributes": None,  # some are the texture's, some the donor's; nobody has looked
                "embedding": None,
                "swap_method": self.options.method,
                "swap_texture": photo["id"],
                "swap_donor": giver["id"],
            }
            written.append(self._record(photo, crop, new))
        return written

    def _record(self, face: Mapping[str, Any], crop: torch.Tensor, new: Mapping[str, Any]) -> dict[str, Any]:
        image = codec.encode(crop, "jpeg", self.options.quality)
        return {**face, "image": image, "size": self.faces.stored_size, **new}


def _opened(held: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Crops uint8 [N, 3, S, S], landmarks float32 [N, 5, 2], and masks uint8 [N, S, S] where all have one."""
    crops = torch.stack([codec.decode(face["image"]) for face in held])
    landmarks = torch.tensor([face["landmarks"] for face in held]).reshape(-1, len(records.LANDMARKS), 2)
    if any(face["mask"] is None for face in held):
        return crops, landmarks, None
    return crops, landmarks, torch.stack([codec.decode_mask(face["mask"]) for face in held])
