"""The training dataset: random access to the faces of one split, read by memory map."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from rayface import records, storage
from rayface.data import shards
from rayface.data.splits import hashed_share
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.imaging.filters import resize_images

IDENTITY_INDEX = "identity_index"  # made from `identity`: not stored, and never missing
COLUMNS = (
    "id",
    "source",
    "split",
    "identity",
    "image",
    "landmarks",
    "mask",
    "facial_hair_mask",
    "attributes",
    "embedding",
    "sharpness",
    "swap_method",
    "swap_texture",
    "swap_donor",
    "retouched_by",
    IDENTITY_INDEX,
)
_HOW_TO_GET = {
    "mask": "masks come with --format celebamask, with drawn faces (`rayface data synth`) or `rayface data label`",
    "facial_hair_mask": "facial-hair masks come with drawn faces (`rayface data synth`)",
    "attributes": "attributes come with --format celeba and its label files, drawn faces or `rayface data label`",
    "identity": "identities come with --format identity, celeba's label files, drawn faces or `rayface data label`",
    "embedding": "embeddings come with `rayface data label`",
    "sharpness": "sharpness comes with `rayface data label`",
}

Key = TypeVar("Key")
Value = TypeVar("Value")


class _Recent(Generic[Key, Value]):
    """The `limit` values used last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        self._values[key] = value
        if len(self._values) > self._limit:
            self._values.popitem(last=False)
        return value


class FaceDataset:
    """The faces of a dataset folder or address, all of them or one split.

    Args:
        path: a folder or an address (s3://...) that `rayface data ingest` or `rayface data synth` wrote.
        split: "train", "validation" or "test"; None for all.
        size: side of the crops given, in pixels; None for the side they are stored with.
        require: columns a face must have ("mask", "attributes", ...); faces without are left out.
        share: take this share of the people (of the faces whose person is not known), always the same ones, and those
            of a smaller share among them: for curves of quality over the size of the data.

    Attributes:
        ids: ids of the faces, in order.
        identities: who each face is; None where unknown.
        people: the identities of the chosen split, sorted; `identity_index` numbers each face by them.
        size: side of the crops given, in pixels.
        digest: hash of the manifest and of the faces chosen, to say what a model was trained on.

    Raises RayfaceError when there is no finished dataset, it was made with other definitions, or no face is
    left. May be pickled: files are opened again where it is used.
    """

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        size: int | None = None,
        require: Sequence[str] = (),
        share: float = 1.0,
    ) -> None:
        if split is not None and split not in records.SPLITS:
            raise RayfaceError(f"Split {split!r} is unknown; choose one of {', '.join(records.SPLITS)}.")
        _check_columns(require)
        if size is not None and size < 1:
            raise RayfaceError(f"A crop size of {size} px makes no sense; give a positive number.")
        self.path = str(path)
        self.split = split
        self._filesystem, self._folder = storage.open_filesystem(path)
        self.manifest = shards.read_manifest(self._folder, self._filesystem)
        self.stored_size = int(self.manifest["size"])
        self.size = size or self.stored_size
        self._shard_names: list[str] = [entry["name"] for entry in self.manifest["shards"]]
        self._read_index(split, tuple(require), share)
        self._reset_caches()

    def __len__(self) -> int:
        return len(self.ids)

    def batch(
        self, indices: Sequence[int] | np.ndarray, columns: Sequence[str] = ("image",)
    ) -> dict[str, torch.Tensor | list[str | None]]:
        """Some faces, in the order asked for.

        Gives for each of `columns`: image uint8 [N, 3, S, S]; mask and facial_hair_mask uint8 [N, S, S];
        landmarks float32 [N, 5, 2] in crop pixels; attributes int8 [N, 40] (1 yes, -1 no, 0 unknown); embedding
        float32 [N, D] of unit length; sharpness float32 [N], NaN where it was not measured; identity_index int64
        [N], the place among the sorted identities of the chosen split, -1 where unknown; id, identity,
        source, split, swap_method, swap_texture, swap_donor and retouched_by as lists.
        Images are scaled with antialiasing, masks to the nearest.

        Raises RayfaceError for an unknown column, an index outside the dataset or a mask that is not there.
        """
        _check_columns(columns)
        rows: list[dict[str, Any]] = [{} for _ in range(len(indices))]
        needed = tuple(sorted(set(columns) - {IDENTITY_INDEX}))
        for position, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise RayfaceError(f"Face {index} is outside the dataset, which has {len(self)} faces.")
            rows[position] = self._row(int(index), needed)
        made = {column: self._collate(column, [row[column] for row in rows]) for column in needed}
        if IDENTITY_INDEX in columns:
            made[IDENTITY_INDEX] = torch.from_numpy(self.identity_index[np.asarray(indices, np.int64)])
        return {column: made[column] for column in columns}

    def records(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some faces as they are stored: bytes of pictures and masks, lists, None where a column is empty."""
        _check_columns(columns)
        return [self._row(int(index), tuple(sorted(columns))) for index in indices]

    def _read_index(self, split: str | None, require: tuple[str, ...], share: float) -> None:
        ids, identities, locations = [], [], []
        for number, name in enumerate(self._shard_names):
            columns = list(dict.fromkeys(("id", "split", "identity", *require)))
            table = shards.read_columns(f"{self._folder}/{name}", self._filesystem, columns)
            keep = np.ones(table.num_rows, bool)
            if split is not None:
                keep &= np.array([value == split for value in table["split"].to_pylist()], bool)
            for column in require:
                keep &= table[column].is_valid().to_numpy()
            if share < 1:
                names = zip(table["id"].to_pylist(), table["identity"].to_pylist(), strict=True)
                # a prefix, or shares would follow the splits, which are hashed by the same names
                keep &= np.array([hashed_share(f"share-{who or face}") < share for face, who in names], bool)
            rows = np.flatnonzero(keep)
            table = table.select(["id", "identity"]).take(pa.array(rows))
            ids += table["id"].to_pylist()
            identities += table["identity"].to_pylist()
            locations.append(np.stack([np.full(len(rows), number), rows], axis=1))
        self.ids: list[str] = ids
        self.identities: list[str | None] = identities
        self.people: list[str] = sorted({identity for identity in identities if identity is not None})
        place = {identity: index for index, identity in enumerate(self.people)}
        self.identity_index = np.array([-1 if who is None else place[who] for who in identities], np.int64)
        self._locations = np.concatenate(locations) if locations else np.zeros((0, 2), np.int64)
        if not ids:
            self._raise_empty(split, require)
        # terms say what the faces may be used for, not which they are
        made_of = {key: value for key, value in self.manifest.items() if key not in ("terms", "commercial_use")}
        hashed = hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=16)
        hashed.update(json.dumps(ids).encode())
        self.digest = hashed.hexdigest()

    def _raise_empty(self, split: str | None, require: tuple[str, ...]) -> None:
        where = f"split {split!r} of {self.path}" if split else self.path
        counts = self.manifest.get("splits", {})
        if require and (counts.get(split, 0) if split else sum(counts.values())):
            ways = "; ".join(_HOW_TO_GET[column] for column in require if column in _HOW_TO_GET)
            raise RayfaceError(
                f"No face in {where} has {' and '.join(require)}: {ways or 'ingest the data with them'}.",
                kind="missing-column",
            )
        raise RayfaceError(f"There is no face in {where}; it holds {counts}.", kind="empty-dataset")

    def _row(self, index: int, columns: tuple[str, ...]) -> dict[str, Any]:
        shard, row = (int(value) for value in self._locations[index])
        group, offset = divmod(row, shards.ROW_GROUP_ROWS)
        table = self._groups.get((shard, group, columns), lambda: self._read_group(shard, group, columns))
        return {column: table[column][offset].as_py() for column in columns}

    def _read_group(self, shard: int, group: int, columns: tuple[str, ...]) -> pa.Table:
        path = f"{self._folder}/{self._shard_names[shard]}"
        file = self._files.get(shard, lambda: shards.open_shard(path, self._filesystem))
        try:
            table = file.read_row_group(group, columns=list(columns), use_threads=False)
            return shards.with_columns(table, columns)
        except (pa.ArrowException, OSError) as error:
            raise RayfaceError(f"{path} cannot be read ({error}).", kind="broken-dataset") from error

    def _collate(self, column: str, values: list[Any]) -> torch.Tensor | list[str | None]:
        if column == "image":
            images = torch.stack([codec.decode(value) for value in values])
            return resize_images(images, self.size)
        if column in ("mask", "facial_hair_mask", "embedding"):
            if any(value is None for value in values):
                raise RayfaceError(
                    f"A face of {self.path} has no {column}; open the dataset with require=({column!r},), "
                    "which leaves such faces out.",
                    kind="missing-column",
                )
            if column == "embedding":
                return torch.tensor(values, dtype=torch.float32)
            return resize_masks(torch.stack([codec.decode_mask(value) for value in values]), self.size)
        if column == "landmarks":
            points = torch.tensor(values, dtype=torch.float32).reshape(-1, 5, 2)
            return scale_points(points, self.size / self.stored_size)
        if column == "sharpness":
            return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float32)
        if column == "attributes":
            unknown = [0] * len(records.ATTRIBUTES)
            rows = [unknown if value is None else value for value in values]
            return torch.tensor(rows, dtype=torch.int8).reshape(-1, len(records.ATTRIBUTES))
        return values

    def _reset_caches(self) -> None:
        # 64 row groups of 256 px crops are some 30 MB; 128 files are well below the limit of open files.
        self._groups: _Recent[tuple[int, int, tuple[str, ...]], pa.Table] = _Recent(64)
        self._files: _Recent[int, pq.ParquetFile] = _Recent(128)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_groups", "_files", "_filesystem")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._filesystem, _ = storage.open_filesystem(self.path)
        self._reset_caches()


def resize_masks(masks: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [N, H, W] to uint8 [N, size, size], each pixel the nearest one's class."""
    if masks.shape[-2:] == (size, size):
        return masks
    return F.interpolate(masks[:, None], size=(size, size), mode="nearest-exact")[:, 0]


def scale_points(points: torch.Tensor, factor: float) -> torch.Tensor:
    """Where points of a picture, in pixels, lie once it is scaled; (0, 0) is the top left pixel's centre."""
    return (points + 0.5) * factor - 0.5


def _check_columns(columns: Sequence[str]) -> None:
    for column in columns:
        if column not in COLUMNS:
            raise RayfaceError(f"Column {column!r} is unknown; choose among {', '.join(COLUMNS)}.")
