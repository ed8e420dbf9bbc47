"""The labelled data set: pictures of the source, labels from the labels' files, splits and people from the groups."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayface import records, storage
from rayface.data import shards
from rayface.data.passes import as_value
from rayface.errors import RayfaceError
from rayface.labelling.labeller import COLUMN_OF


def assemble_shard(chunk: dict[str, Any]) -> dict[str, Any]:
    """The task of one Ray worker: write one shard of the result.

    `chunk`: shard (its name), faces, labels and out (folders), decisions (JSON; a [split, identity, left_out] for
    each face of the shard, in order).
    """
    filesystem, folder = storage.open_filesystem(chunk["faces"])
    out_files, out = storage.open_filesystem(chunk["out"])
    try:
        table = shards.read_columns(f"{folder}/{chunk['shard']}", filesystem, records.FACE_SCHEMA.names)
        rows = labelled_rows(table, read_labels(f"{chunk['labels']}/{chunk['shard']}"), json.loads(chunk["decisions"]))
        shards.write_shard(rows, f"{out}/{chunk['shard']}", out_files)
    except RayfaceError as error:
        return {"done": 0, "faces": 0, "error": as_value(error)}
    return {"done": table.num_rows, "faces": len(rows), "error": ""}


def labelled_rows(table: pa.Table, labels: pa.Table, decisions: list[list[str | None]]) -> list[dict[str, Any]]:
    """Face records of those that stay, with what was predicted for them in place of what the source has."""
    rows = []
    for row, made, (split, identity, left_out) in zip(table.to_pylist(), labels.to_pylist(), decisions, strict=True):
        if left_out is None:
            predicted = {column: made[column] for column in COLUMN_OF.values() if made[column] is not None}
            rows.append({**row, **predicted, "split": split, "identity": identity})
    return rows


def read_labels(path: str) -> pa.Table:
    filesystem, inner = storage.open_filesystem(path)
    with filesystem.open_input_file(inner) as file:
        return pq.read_table(file)


def labelled_by(
    decisions: pa.Table, labels: str, models: Mapping[str, Mapping[str, Any]], before: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Which columns are predicted, by what, in how many of the faces that stay: for dataset.json.

    `models`: label -> {model, sha256, ...}; `before`: what the source's manifest says, kept beside the new entries
    (the caller leaves out what was overwritten); those count no more faces than stay.
    """
    counts = dict.fromkeys(COLUMN_OF.values(), 0)
    stays = {row["id"]: row["left_out"] is None for row in decisions.select(["id", "left_out"]).to_pylist()}
    for name in dict.fromkeys(decisions["shard"].to_pylist()):
        table = read_labels(f"{labels}/{name}")
        kept = pa.array([stays[face] for face in table["id"].to_pylist()], pa.bool_())
        for column in counts:
            held = table[column].filter(kept)
            counts[column] += len(held) - held.null_count
    most = sum(stays.values())
    found = {
        column: [{**entry, "faces": min(entry["faces"], most)} for entry in entries]
        for column, entries in before.items()
    }
    for label, model in models.items():
        if counts[COLUMN_OF[label]]:
            found.setdefault(COLUMN_OF[label], []).append({**model, "faces": counts[COLUMN_OF[label]]})
    return found
