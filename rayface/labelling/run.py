"""`rayface data label`: photos, or a data set, to training data with labels, people and person-disjoint splits.

Three passes of Ray Data with one pass over the embeddings between them, each restartable shard by shard:

    photos --ingest--> DIR/work/faces --label--> DIR/work/labels --group--> decisions --assemble--> DIR/shard-*

`dataset.json` is written last, then DIR/work is deleted.
"""

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rayface import storage, terms
from rayface.data import shards
from rayface.data.dataset import FaceDataset
from rayface.data.ingest import ingest
from rayface.data.passes import Tell, claim, run_pass
from rayface.data.sources import find_items
from rayface.errors import RayfaceError
from rayface.labelling.assemble import assemble_shard, labelled_by
from rayface.labelling.groups import DECISION_SCHEMA, DECISIONS, GroupOptions, decide, read_faces, write_lists
from rayface.labelling.labeller import COLUMN_OF, SYSTEM_OF, Labeller, LabelOptions, options_to_json
from rayface.pretrained import pretrained_info
from rayface.store import open_store

PLAN = "label.json"
STATED = ("sha256", "licence", "terms", "commercial_use", "cosines")  # what dataset.json keeps of a model
WORK = "work"
DLIB = "pretrained:dlib"


@dataclasses.dataclass(frozen=True)
class IngestOptions:
    """For a source of photos; see `data.ingest.ingest`. `terms` is what the photos may be used for."""

    format: str = "folder"
    size: int = 256
    align: str = "auto"
    image_format: str = "jpeg"
    quality: int = 95
    chunk: int = 128
    max_faces: int = 16
    min_face: int = 40
    limit: int | None = None
    terms: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def label(
    source: str | Path,
    out: str | Path,
    options: LabelOptions | None = None,
    groups: GroupOptions | None = None,
    photos: IngestOptions | None = None,
    splits: str = "auto",
    store: str = "",
    workers: int | None = None,
    gpu: bool = False,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Make the labelled data set `out` of `source`: photos, or a data set that `rayface data` wrote.

    What a face has already is kept unless `options.overwrite`; who is one person is found out anew. `splits` "auto" is
    "hash" for a folder of photos and "keep" for all that has splits already: a data set, on whose training faces
    something may have been trained, and the formats celeba, celebamask, identity and synth; see `groups.GroupOptions`.
    `workers` processes at most; `gpu` gives each labelling process one. The same call again goes on where a stopped one
    was.

    Gives a summary: faces, splits, columns, labelled_by, groups, rejected, terms, seconds. Raises RayfaceError,
    before any work, for a label whose model is not in the store, for impossible options and for an `out` that holds
    something else; later where a shard cannot be read or written.
    """
    began = time.monotonic()
    tell = tell or (lambda _: None)
    options, groups, photos = options or LabelOptions(), groups or GroupOptions(), photos or IngestOptions()
    if splits not in ("auto", "hash", "keep"):
        raise RayfaceError(f"label: --splits {splits!r}: choose auto, hash or keep.")
    address = storage.absolute(store or open_store().uri)
    models = find_models(options, address)
    options = dataclasses.replace(options, models={name: model["model"] for name, model in models.items()})
    ready = _manifest(source)  # None: photos
    if ready is not None and not options.overwrite:
        _check_one_recogniser(ready, models)
    if splits == "auto":
        splits = "hash" if ready is None and photos.format == "folder" else "keep"
    groups = dataclasses.replace(groups, splits=splits)
    if recogniser := _recogniser(ready, models):
        groups = groups.stated_by(recogniser)
    place = _Place(storage.absolute(str(out)).rstrip("/"))
    claim(place.filesystem, place.folder, _plan(source, options, groups, photos, models, ready), PLAN)
    if place.finished():
        tell(f"{out} is finished already")
    else:
        faces = storage.absolute(str(source)) if ready is not None else f"{place.work}/faces"
        if ready is None:
            _ingest(source, faces, photos, workers, tell)
        _label_faces(place, faces, options, address, workers, gpu, tell)
        decisions, counts = _decisions(place, faces, groups, tell)
        _assemble(place, faces, decisions, workers, tell)
        _finish(place, faces, decisions, counts, options, groups, models)
    place.remove_work()
    manifest = shards.read_manifest(place.folder, place.filesystem)
    told = ("faces", "splits", "identities", "columns", "labelled_by", "groups", "rejected", "terms", "commercial_use")
    return {**{key: manifest[key] for key in told}, "seconds": round(time.monotonic() - began, 2)}


def find_models(options: LabelOptions, store: str) -> dict[str, dict[str, Any]]:
    """For each label that takes a model: {model: name@version} and what of STATED it states.

    Raises RayfaceError naming the label where the store has no such model, or one of another system.
    """
    found: dict[str, dict[str, Any]] = {}
    opened = open_store(store)
    for name in options.models:
        if name not in SYSTEM_OF:
            raise RayfaceError(f"label: {name!r} takes no model; those that do: {', '.join(SYSTEM_OF)}.")
    for name in (name for name in options.labels if name in SYSTEM_OF):
        ref = options.models.get(name) or (default_recogniser() if name == "embeddings" else SYSTEM_OF[name])
        try:
            info = opened.usable(ref)
        except RayfaceError as error:
            others = ",".join(other for other in options.labels if other != name) or "sharpness"
            raise RayfaceError(
                f"--with {name} needs a model of {SYSTEM_OF[name]}: {error} Or label without it: --with {others}",
                status=error.status,
                kind=error.kind,
            ) from error
        if info["system"] != SYSTEM_OF[name]:
            raise RayfaceError(
                f"label: --model {name}={ref}: it is a model of {info['system']}, {name} need one of {SYSTEM_OF[name]}."
            )
        pinned = ref if "/" in ref else f"{info['name']}@{info['version']}"
        stated = {key: info[key] for key in STATED if key in info}
        found[name] = {"model": pinned} | stated
    return found


def default_recogniser() -> str:
    """Who makes embeddings where nobody is named: dlib's network where its package is installed, else the store's.

    dlib's groups people better than the released one does (docs/benchmarks.md).
    """
    try:
        pretrained_info(DLIB)
    except RayfaceError as error:
        if error.kind != "missing-package":
            raise
        return SYSTEM_OF["embeddings"]
    return DLIB


class _Place:
    """Where the result goes, and the folder of unfinished work in it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.work = f"{address}/{WORK}"
        self.labels = f"{self.work}/labels"
        self.filesystem, self.folder = storage.open_filesystem(address)

    def finished(self) -> bool:
        return self._type(shards.MANIFEST) == fs.FileType.File

    def remove_work(self) -> None:
        if self._type(WORK) == fs.FileType.Directory:
            self.filesystem.delete_dir(f"{self.folder}/{WORK}")

    def _type(self, name: str) -> fs.FileType:
        return self.filesystem.get_file_info(f"{self.folder}/{name}").type


def _manifest(source: str | Path) -> dict[str, Any] | None:
    """dataset.json where the source is a data set; None for photos."""
    filesystem, folder = storage.open_filesystem(source)
    if filesystem.get_file_info(f"{folder}/{shards.MANIFEST}").type != fs.FileType.File:
        return None
    return shards.read_manifest(folder, filesystem)


def _check_one_recogniser(manifest: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:
    """Embeddings of two models cannot be compared."""
    held = {entry["model"]: entry["sha256"] for entry in manifest.get("labelled_by", {}).get("embedding", [])}
    wanted = models.get("embeddings")
    if wanted and held and wanted["sha256"] not in held.values():
        raise RayfaceError(
            f"label: the source's embeddings are those of {', '.join(held)}, not of {wanted['model']}; use "
            "--overwrite to make all anew, or --model embeddings= to name the one they were made with."
        )


def _recogniser(
    manifest: Mapping[str, Any] | None, models: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The recogniser of this run's embeddings, else the one of those that the source has; None without embeddings."""
    held = (manifest or {}).get("labelled_by", {}).get("embedding", [])
    return models.get("embeddings") or next(iter(held), None)


def _plan(
    source: str | Path,
    options: LabelOptions,
    groups: GroupOptions,
    photos: IngestOptions,
    models: Mapping[str, Mapping[str, Any]],
    ready: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the result depends on; a resumed run is held against it."""
    if ready is not None:
        made_of: dict[str, Any] = {"source": FaceDataset(source).digest}
    else:
        made_of = {
            "source": find_items(source, photos.format, photos.limit).digest(),
            **dataclasses.asdict(photos),
            "terms": dict(photos.terms),
        }
    hashes = {name: model["sha256"] for name, model in models.items()}
    return {**made_of, **options_to_json(options), "sha256": hashes, **dataclasses.asdict(groups)}


def _ingest(source: str | Path, faces: str, photos: IngestOptions, workers: int | None, tell: Tell) -> None:
    tell("1/4 find, align and cut out faces")
    ingest(source, faces, **dataclasses.asdict(photos), workers=workers, tell=tell)


def _label_faces(
    place: _Place, faces: str, options: LabelOptions, store: str, workers: int | None, gpu: bool, tell: Tell
) -> None:
    makers = (f"{name} (by {options.models[name]})" if name in options.models else name for name in options.labels)
    tell(f"2/4 label: {', '.join(makers)}")
    filesystem, folder = storage.open_filesystem(faces)
    sizes = {entry["name"]: entry["rows"] for entry in shards.read_manifest(folder, filesystem)["shards"]}
    labels = storage.open_filesystem(place.labels)[1]
    shards.remove_temporary(place.filesystem, labels)
    finished = set(shards.list_shards(place.filesystem, labels))
    task = {
        "options": options_to_json(options),
        "store": store,
        "device": "cuda" if gpu else "cpu",
        "faces": faces,
        "labels": place.labels,
    }
    todo = [{"shard": name, "task": json.dumps(task)} for name in sizes if name not in finished]
    if finished:
        tell(f"{len(sizes) - len(todo)} of {len(sizes)} shards are labelled already")
    if todo:
        total = sum(sizes[chunk["shard"]] for chunk in todo)
        run_pass(Labeller, todo, total, "faces", tell, workers, gpu)


def _decisions(place: _Place, faces: str, groups: GroupOptions, tell: Tell) -> tuple[pa.Table, dict[str, Any]]:
    """Made once and kept: shards of the result that a stopped run has written agree with those still to come."""
    tell("3/4 people and near-duplicates")
    path = f"{storage.open_filesystem(place.work)[1]}/{DECISIONS}"
    if place.filesystem.get_file_info(path).type == fs.FileType.File:
        with place.filesystem.open_input_file(path) as file:
            table = pq.read_table(file)
        return table, json.loads(table.schema.metadata[b"counts"])
    table, counts = decide(read_faces(faces, place.labels), groups)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"counts": json.dumps(counts)}), sink)
    storage.write_bytes(sink.getvalue().to_pybytes(), path, place.filesystem)
    return table.cast(DECISION_SCHEMA), counts


def _assemble(place: _Place, faces: str, decisions: pa.Table, workers: int | None, tell: Tell) -> None:
    tell("4/4 write shards")
    shards.remove_temporary(place.filesystem, place.folder)
    filesystem, folder = storage.open_filesystem(faces)
    of_shard: dict[str, list[list[str | None]]] = {name: [] for name in shards.list_shards(filesystem, folder)}
    for row in decisions.to_pylist():
        of_shard[row["shard"]].append([row["split"], row["identity"], row["left_out"]])
    finished = set(shards.list_shards(place.filesystem, place.folder))
    common = {"faces": faces, "labels": place.labels, "out": place.address}
    todo = [
        {"shard": name, "decisions": json.dumps(rows), **common}
        for name, rows in of_shard.items()
        if name not in finished
    ]
    if todo:
        total = sum(len(of_shard[chunk["shard"]]) for chunk in todo)
        run_pass(assemble_shard, todo, total, "faces", tell, workers)


def _finish(
    place: _Place,
    faces: str,
    decisions: pa.Table,
    counts: dict[str, Any],
    options: LabelOptions,
    groups: GroupOptions,
    models: Mapping[str, Mapping[str, Any]],
) -> None:
    """Lists and dataset.json."""
    filesystem, folder = storage.open_filesystem(faces)
    manifest = shards.read_manifest(folder, filesystem)
    rejected = shards.read_rejected(folder, filesystem)
    write_lists(decisions, rejected, place.filesystem, place.folder)
    overwritten = {COLUMN_OF[name] for name in options.labels} if options.overwrite else set[str]()
    before = {column: by for column, by in manifest.get("labelled_by", {}).items() if column not in overwritten}
    makers = {**models, "sharpness": {"measure": "rayface.imaging.quality.face_sharpness"}}
    by = labelled_by(decisions, place.labels, makers, before)
    rows = decisions.to_pylist()
    people = sum(row["predicted"] and row["left_out"] is None for row in rows)
    if people and "embeddings" in models:
        by["identity"] = [{**models["embeddings"], "same_person": groups.same_person, "faces": people}]
    used = {entry["model"]: entry for entries in by.values() for entry in entries if "model" in entry}
    stated = terms.inherited({"photos": terms.dataset_terms(manifest), **used})
    left_out = Counter(row["left_out"] for row in rows if row["left_out"] is not None)
    with place.filesystem.open_input_stream(f"{place.folder}/{PLAN}") as stream:
        plan = json.loads(stream.read())
    shards.write_manifest(
        place.folder,
        place.filesystem,
        format=manifest["format"],
        size=manifest["size"],
        options=plan,
        rejected=Counter(manifest["rejected"]) + left_out,
        terms=stated,
        further={"labelled_by": by, "groups": counts},
    )
