"""Figures by group of people, for every report that has one value a photo.

A report calls `record` with its values per photo; `evaluate` collects them and splits them by attributes: the data's
own labels, or where it has none those that a stored attributes model predicts, which the result says.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rayface.evaluation.metrics import bootstrap
from rayface.records import ATTRIBUTE_ID

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

# Attributes of CelebA, by yes and by no. It has no skin tone; Pale_Skin is a poor stand-in.
GROUPS = ("Male", "Young", "Pale_Skin", "Eyeglasses")
LEAST_PHOTOS = 5  # a smaller group is only counted
BATCH = 16

Classify = Callable[[Tensor], Tensor]  # crops uint8 [N, 3, S, S] -> probabilities float [N, 40]
_values: ContextVar[dict[str, np.ndarray] | None] = ContextVar("per-photo values", default=None)


@contextmanager
def per_photo_values() -> Iterator[dict[str, np.ndarray]]:
    """Collects what reports `record` meanwhile: name -> float [N], in the data set's order."""
    collected: dict[str, np.ndarray] = {}
    token = _values.set(collected)
    try:
        yield collected
    finally:
        _values.reset(token)


def record(name: str, values: np.ndarray) -> None:
    """Hand over a metric's values per photo, float [N]; without a collector nothing happens."""
    collected = _values.get()
    if collected is not None:
        collected[name] = values


def group_masks(attributes: np.ndarray) -> dict[str, np.ndarray]:
    """`{"Male: yes": bool [N], ...}` from attributes int [N, 40] (1 yes, -1 no, 0 unknown: in neither group)."""
    answers = (("yes", 1), ("no", -1))
    return {f"{g}: {word}": attributes[:, ATTRIBUTE_ID[g]] == sign for g in GROUPS for word, sign in answers}


def stated_attributes(dataset: "FaceDataset", total: int) -> np.ndarray | None:
    """Attributes int [N, 40] (1, -1, 0 unknown) of the first `total` faces; None where none of them has any."""
    found = []
    for start in range(0, total, BATCH):
        found.append(dataset.batch(range(start, min(start + BATCH, total)), ("attributes",))["attributes"])
    attributes = np.concatenate([np.asarray(part) for part in found]).astype(int)
    return attributes if attributes.any() else None


def predicted_attributes(dataset: "FaceDataset", total: int, classify: Classify, size: int) -> np.ndarray:
    """As `stated_attributes`, told by a network that takes crops of `size` px."""
    from rayface.imaging.filters import resize_images

    guessed = []
    for start in range(0, total, BATCH):
        crops = dataset.batch(range(start, min(start + BATCH, total)), ("image",))["image"]
        assert isinstance(crops, Tensor)
        guessed.append(np.where(classify(resize_images(crops, size)).numpy() >= 0.5, 1, -1))
    return np.concatenate(guessed)


def by_group(values: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The mean of each metric in each group with its interval, and the group's number of photos that have values."""
    table: dict[str, dict[str, Any]] = {}
    measured = ~np.isnan(np.stack(list(values.values()))).all(0)
    for group, mask in {"all": measured, **{name: mask & measured for name, mask in masks.items()}}.items():
        table[group] = {"photos": int(mask.sum())}
        for name, per_photo in values.items():
            chosen = per_photo[mask & ~np.isnan(per_photo)]
            if len(chosen) >= LEAST_PHOTOS:
                table[group][name] = bootstrap(chosen)
    return table
