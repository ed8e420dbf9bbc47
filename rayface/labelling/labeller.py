"""What models say about face crops, and the process of Ray Data's actor pool that holds them.

The labels of a shard lie in a Parquet file beside it (`LABEL_SCHEMA`), without the pictures, row for row; they are
put together with the pictures once the groups are known (`labelling.assemble`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from rayface import records, storage
from rayface.data import shards
from rayface.data.dataset import resize_masks
from rayface.data.grouping import thumbnails
from rayface.data.passes import as_value
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.imaging.filters import resize_images
from rayface.imaging.quality import face_sharpness

# What can be labelled: the column it fills, and the system whose model does it.
COLUMN_OF = {"attributes": "attributes", "masks": "mask", "embeddings": "embedding", "sharpness": "sharpness"}
SYSTEM_OF = {"attributes": "attributes", "masks": "parsing", "embeddings": "recognition"}
LABELS = tuple(COLUMN_OF)
_BATCH = 32  # crops in a forward pass

LABEL_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        *(records.FACE_SCHEMA.field(column) for column in COLUMN_OF.values()),
        pa.field("thumbnail", pa.binary(), nullable=False),  # grouping.thumbnails, 256 bytes
    ]
)


@dataclass(frozen=True)
class LabelOptions:
    """How faces are labelled.

    labels: some of LABELS. models: label -> reference in the store, for those that take a model. unsure: an
    attribute whose probability is nearer to one half than this is unknown (0). overwrite: predict also what the
    source has already.
    """

    labels: tuple[str, ...] = LABELS
    models: Mapping[str, str] = field(default_factory=dict)
    unsure: float = 0.1
    overwrite: bool = False

    def __post_init__(self) -> None:
        unknown = [label for label in self.labels if label not in LABELS]
        if unknown or not self.labels:
            raise RayfaceError(f"label: --with {','.join(self.labels)!r}: choose among {', '.join(LABELS)}.")
        if not 0 <= self.unsure < 0.5:
            raise RayfaceError(f"label: --unsure {self.unsure} must be at least 0 and below 0.5.")


class Predictor:
    """The models of some labels, each loaded when it is first used. Crops uint8 [N, 3, S, S] of any S."""

    def __init__(self, options: LabelOptions, store: str, device: str) -> None:
        self.options, self.device = options, device
        self._store, self._held = store, dict[str, Any]()

    def predict(self, label: str, crops: Tensor) -> list[Any]:
        """The values of the label's column, one for each crop."""
        return list({
            "attributes": self._attributes,
            "masks": self._masks,
            "embeddings": self._embeddings,
            "sharpness": lambda images: face_sharpness(images).tolist(),
        }[label](crops))  # fmt: skip

    def _step(self, label: str) -> Any:
        """The serving step of the label's model."""
        if label not in self._held:
            from rayface.store import open_store
            from rayface.systems.base import get_system

            loaded = open_store(self._store or None).load(self.options.models[label])
            self._held[label] = get_system(loaded.system).make_step(loaded, self.device)
        return self._held[label]

    def _recogniser(self) -> torch.nn.Module:
        """Takes FFHQ-aligned crops of any size."""
        if "embeddings" not in self._held:
            from rayface.store import open_store

            network = open_store(self._store or None).load_network(self.options.models["embeddings"])
            self._held["embeddings"] = network.to(self.device).to(memory_format=torch.channels_last)
        return self._held["embeddings"]

    def _attributes(self, crops: Tensor) -> list[list[int]]:
        step = self._step("attributes")
        above = step.classify(resize_images(crops, step.size)).cpu() - 0.5
        labels = torch.where(above >= 0, 1, -1) * (above.abs() >= self.options.unsure)
        return labels.tolist()

    def _masks(self, crops: Tensor) -> Iterator[bytes]:
        step = self._step("masks")
        masks = resize_masks(step.masks(resize_images(crops, step.size)), crops.shape[-1])
        return (codec.encode_mask(mask) for mask in masks)

    @torch.inference_mode()
    def _embeddings(self, crops: Tensor) -> list[list[float]]:
        found = self._recogniser()(codec.to_float(crops.to(self.device)))
        return torch.nn.functional.normalize(found.float(), dim=1).cpu().tolist()


def label_rows(table: pa.Table, predictor: Predictor) -> tuple[list[dict[str, Any]], int]:
    """Rows of LABEL_SCHEMA for the faces of a shard, and how many of them got a label that they lacked.

    `table` has the columns id, image and those of the labels. A label that a face has already is left null here
    (unless `overwrite`): it stays in the shard.
    """
    rows: list[dict[str, Any]] = []
    labelled = 0
    for start in range(0, table.num_rows, _BATCH):
        part = table.slice(start, _BATCH)
        crops = torch.stack([codec.decode(image) for image in part["image"].to_pylist()])
        made = [
            {"id": face, "thumbnail": small.tobytes()}
            for face, small in zip(part["id"].to_pylist(), thumbnails(crops), strict=True)
        ]
        for label in predictor.options.labels:
            wanted = _wanted(part[COLUMN_OF[label]], predictor.options.overwrite)
            if len(wanted):
                values = predictor.predict(label, crops[torch.from_numpy(wanted)])
                for index, value in zip(wanted.tolist(), values, strict=True):
                    made[index][COLUMN_OF[label]] = value
        labelled += sum(len(row) > 2 for row in made)
        rows += made
    return rows, labelled


def _wanted(column: pa.ChunkedArray, overwrite: bool) -> np.ndarray:
    return np.flatnonzero(np.ones(len(column), bool) if overwrite else ~column.is_valid().to_numpy())


class Labeller:
    """A process of the actor pool: labels one shard a call and writes the labels' file; keeps the models it loaded."""

    def __init__(self) -> None:
        self.predictor: Predictor | None = None

    def __call__(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """`chunk`: shard (its name) and task, JSON: options, store, device, faces (the data set), labels (a folder)."""
        task = json.loads(chunk["task"])
        if self.predictor is None:
            self.predictor = Predictor(options_from(task["options"]), task["store"], task["device"])
        filesystem, folder = storage.open_filesystem(task["faces"])
        try:
            columns = ["id", "image", *(COLUMN_OF[label] for label in self.predictor.options.labels)]
            table = shards.read_columns(f"{folder}/{chunk['shard']}", filesystem, columns)
            rows, labelled = label_rows(table, self.predictor)
            write_labels(rows, f"{task['labels']}/{chunk['shard']}")
        except RayfaceError as error:
            return {"done": 0, "faces": 0, "error": as_value(error)}
        return {"done": table.num_rows, "faces": labelled, "error": ""}


def write_labels(rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """Write rows of LABEL_SCHEMA whole or not at all; absent keys are null."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=LABEL_SCHEMA), sink)
    filesystem, inner = storage.open_filesystem(path)
    storage.write_bytes(sink.getvalue().to_pybytes(), inner, filesystem)


def options_to_json(options: LabelOptions) -> dict[str, Any]:
    return {**asdict(options), "labels": list(options.labels), "models": dict(options.models)}


def options_from(values: Mapping[str, Any]) -> LabelOptions:
    return LabelOptions(**{**values, "labels": tuple(values["labels"])})
