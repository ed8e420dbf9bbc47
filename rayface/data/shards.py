"""Parquet shards of face records: written atomically, listed and described by `dataset.json`.

A dataset is a folder (or a bucket address, through `pyarrow.fs`) of `shard-00000.parquet ...` and
`dataset.json`, which is written last: a folder without it is unfinished.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rayface import records
from rayface.errors import RayfaceError
from rayface.storage import open_filesystem, write_bytes
from rayface.terms import dataset_terms

MANIFEST = "dataset.json"
REJECTED = "rejected.csv"
ROW_GROUP_ROWS = 16  # small: a random access reads one row group
OPTIONAL_COLUMNS = ("mask", "facial_hair_mask", "attributes", "identity", "embedding", "sharpness")

_SHARD_NAME = re.compile(r"shard-\d{5,}\.parquet")


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.parquet"


def list_shards(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """The names of the finished shards in `folder`, sorted; none when there is no such folder."""
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    files = [info.base_name for info in found if info.type == fs.FileType.File]
    return sorted(name for name in files if _SHARD_NAME.fullmatch(name))


def remove_temporary(filesystem: fs.FileSystem, folder: str) -> None:
    """Delete what killed writers left behind."""
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if info.base_name.startswith(".tmp-") and info.type == fs.FileType.File:
            filesystem.delete_file(info.path)


def write_shard(
    rows: Sequence[Mapping[str, Any]],
    path: str,
    filesystem: fs.FileSystem | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write face records to `path`: dicts with the fields of `records.FACE_SCHEMA`, nullable ones may lack.

    Empty `rows` give a valid shard without rows: a chunk whose pictures were all rejected is finished too.
    `metadata` is kept in the shard beside the definitions.
    Raises RayfaceError when a row does not fit the schema or the place cannot be written.
    """
    if filesystem is None:
        filesystem, path = open_filesystem(path)
    sink = pa.BufferOutputStream()
    try:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=records.FACE_SCHEMA)
        table = table.replace_schema_metadata({**records.schema_metadata(), **(metadata or {})})
        pq.write_table(
            table,
            sink,
            row_group_size=ROW_GROUP_ROWS,
            compression="NONE",  # pictures are compressed already, and plain bytes can be read by memory map
            use_dictionary=["source", "split", "identity"],
            write_statistics=["id", "split"],  # minima and maxima of pictures would bloat the footer
        )
    except (pa.ArrowException, TypeError) as error:
        raise RayfaceError(f"{path}: a record does not fit the schema ({error}).", kind="bad-record") from error
    write_bytes(sink.getvalue().to_pybytes(), path, filesystem)


def read_columns(path: str, filesystem: fs.FileSystem, columns: Sequence[str]) -> pa.Table:
    """Some columns of one shard; a nullable one that an older shard lacks is null.

    Raises RayfaceError when the shard is missing, broken or made with other definitions.
    """
    with open_shard(path, filesystem) as shard:
        try:
            return with_columns(shard.read(columns=list(columns), use_threads=False), columns)
        except (pa.ArrowException, OSError) as error:
            raise _broken(path, error) from error


def with_columns(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """`table` with exactly `columns`, in that order; nullable ones of the schema that it lacks are null."""
    for column in columns:
        field = records.FACE_SCHEMA.field(column)
        if column not in table.column_names and field.nullable:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(list(columns))


def open_shard(path: str, filesystem: fs.FileSystem) -> pq.ParquetFile:
    """A checked shard; a local one is memory-mapped.

    Raises RayfaceError when it is missing, broken or made with other definitions.
    """
    try:
        shard = pq.ParquetFile(filesystem.open_input_file(path))
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, error) from error
    metadata = shard.schema_arrow.metadata or {}
    records.check_metadata({key.decode(): value.decode() for key, value in metadata.items()}, path)
    return shard


def write_manifest(
    folder: str,
    filesystem: fs.FileSystem | None = None,
    *,
    format: str,
    size: int,
    options: Mapping[str, Any] | None = None,
    rejected: Mapping[str, int] | None = None,
    terms: Mapping[str, Any] | None = None,
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Count what the shards in `folder` hold and write `dataset.json`; call it when all are written.

    `format` names where the faces come from, `size` is their side in pixels, `options` what they were made
    with, `rejected` how many pictures were left out, by reason, and `terms` overrides what is known of the terms
    of `format` (`terms`, `commercial_use`; see `rayface.terms`); `further` are more keys. Nothing in the file
    depends on when or where it was made, so the same data has the same digest. Gives the manifest.
    """
    if filesystem is None:
        filesystem, folder = open_filesystem(folder)
    shards, splits, filled, identities = [], Counter[str](), Counter[str](), set[str]()
    for name in list_shards(filesystem, folder):
        table = read_columns(f"{folder}/{name}", filesystem, ["split", *OPTIONAL_COLUMNS])
        shards.append({"name": name, "rows": table.num_rows})
        splits.update(table["split"].to_pylist())
        identities.update(value for value in table["identity"].to_pylist() if value is not None)
        for column in OPTIONAL_COLUMNS:
            filled[column] += table.num_rows - table[column].null_count
    manifest = {
        "rayface": records.schema_metadata(),
        "format": format,
        **dataset_terms({"format": format, **(terms or {})}),
        "size": size,
        "faces": sum(splits.values()),
        "splits": {split: splits[split] for split in records.SPLITS},
        "identities": len(identities),
        "columns": dict(filled),
        "options": dict(options or {}),
        "rejected": dict(rejected or {}),
        "shards": shards,
        **(further or {}),
    }
    write_bytes(json.dumps(manifest, indent=1).encode(), f"{folder}/{MANIFEST}", filesystem)
    return manifest


def read_manifest(folder: str, filesystem: fs.FileSystem) -> dict[str, Any]:
    """`dataset.json` of a finished dataset.

    Raises RayfaceError when it is missing (no dataset, or an unfinished one), broken, or made with other
    definitions.
    """
    path = f"{folder}/{MANIFEST}"
    try:
        with filesystem.open_input_stream(path) as stream:
            manifest = json.loads(stream.read())
        if not isinstance(manifest, dict) or not {"shards", "size", "rayface"} <= manifest.keys():
            raise ValueError("it is not a manifest of rayface")
    except FileNotFoundError as error:
        unfinished = bool(list_shards(filesystem, folder))
        raise RayfaceError(
            f"{folder} is {'an unfinished' if unfinished else 'no'} dataset: there is no {MANIFEST}. "
            + ("Run the same `rayface data ingest` again to finish it." if unfinished else "Make one with ")
            + ("" if unfinished else "`rayface data ingest` or `rayface data synth`."),
            status=404,
            kind="no-dataset",
        ) from error
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    records.check_metadata(manifest["rayface"], path)
    return manifest


def read_rejected(folder: str, filesystem: fs.FileSystem) -> list[list[str]]:
    """The rows (id, reason, detail) of a data set's rejected.csv; none where it has no such file."""
    try:
        with filesystem.open_input_stream(f"{folder}/{REJECTED}") as stream:
            text = stream.read().decode("utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    return list(csv.reader(io.StringIO(text)))[1:]


def write_rejected(rows: Iterable[Sequence[str]], folder: str, filesystem: fs.FileSystem) -> None:
    """What a data set left out, one row (id, reason, detail) each, sorted."""
    write_csv(("id", "reason", "detail"), sorted(map(tuple, rows)), f"{folder}/{REJECTED}", filesystem)


def write_csv(head: Sequence[str], rows: Iterable[Sequence[Any]], path: str, filesystem: fs.FileSystem) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_bytes(text.getvalue().encode("utf-8", errors="surrogateescape"), path, filesystem)


def _broken(path: str, error: Exception) -> RayfaceError:
    return RayfaceError(
        f"{path} cannot be read ({error}); delete the dataset and make it again.", kind="broken-dataset"
    )
