"""Which faces a step trains on: a permutation per epoch, keyed by the seed, the same on every number of ranks."""

from collections.abc import Callable, Sequence

import numpy as np

from rayface.errors import RayfaceError
from rayface.randomness import generator

# step -> dataset indices, int64 [global_batch]; can be pickled, as loaders run in other processes
Sampler = Callable[[int], np.ndarray]
LEAST_ALIKE = 8  # fewer partners of a group would be seen again and again


def batch_indices(seed: int, step: int, global_batch: int, length: int, stream: str = "epoch order") -> np.ndarray:
    """Dataset indices, int64 [global_batch], of the whole batch of `step`.

    Epochs follow each other without a gap: position p = step * global_batch + i is face p % length of the
    permutation of epoch p // length, so every face comes once per epoch and a batch may span two.
    """
    if length < 1:
        raise RayfaceError("the training split is empty; ingest more photos or choose another split")
    positions = step * global_batch + np.arange(global_batch, dtype=np.int64)
    indices = np.empty(global_batch, np.int64)
    for epoch in np.unique(positions // length):
        order = generator(seed, int(epoch), 0, stream).permutation(length)
        here = positions // length == epoch
        indices[here] = order[positions[here] % length]
    return indices


def quotas(ratio: Sequence[float], global_batch: int) -> np.ndarray:
    """How many of each class a batch holds, int64: the ratio's shares of it, the rest to the largest remainders.

    Raises RayfaceError where that leaves none of a class that the ratio asks for.
    """
    wanted = np.asarray(ratio, np.float64) / sum(ratio) * global_batch
    counts = np.floor(wanted + 1e-9).astype(np.int64)
    rest = np.argsort(-(wanted - counts), kind="stable")[: global_batch - counts.sum()]
    counts[rest] += 1
    if missing := [
        place for place, (share, count) in enumerate(zip(ratio, counts, strict=True)) if share and not count
    ]:
        enough = int(np.ceil(sum(ratio) / min(share for share in ratio if share)))
        raise RayfaceError(
            f"global_batch={global_batch} is too small for the ratio {':'.join(f'{share:g}' for share in ratio)}: none "
            f"of class {missing[0]} would be in it; {enough} is enough, or take another ratio"
        )
    return counts


class RatioSampler:
    """Batches that hold the classes in a preset ratio, each exactly (SPEC B1, B2).

    `classes` int64 [faces of the dataset], -1 for a face of none; `ratio` a share for each class. A class's faces come
    once an epoch of their own, so a rare class comes round more often. Classes alternate in a batch, so that every rank
    has nearly the same of each.
    """

    def __init__(self, classes: np.ndarray, ratio: Sequence[float], seed: int, global_batch: int) -> None:
        self.seed, self.quotas = seed, quotas(ratio, global_batch)
        self.members = [np.flatnonzero(classes == number) for number in range(len(ratio))]
        turns = np.concatenate([(np.arange(count) + 0.5) / count for count in self.quotas])
        self.order = np.argsort(turns, kind="stable")

    def __call__(self, step: int) -> np.ndarray:
        drawn = [
            members[batch_indices(self.seed, step, int(count), len(members), f"class {number}")]
            for number, (members, count) in enumerate(zip(self.members, self.quotas, strict=True))
            if count
        ]
        return np.concatenate(drawn)[self.order]


class RepeatSampler:
    """Faces of which few are like them come round more often (repeat factors, Gupta et al. 2019, LVIS).

    `labels` int8 [faces of the dataset, A] in {-1, 0, 1}, 0 for unknown. A value that a share f of the faces has is
    repeated sqrt(threshold / f) times where that is above 1, rounded; a face as often as the rarest of its values.
    """

    def __init__(self, labels: np.ndarray, threshold: float, seed: int, global_batch: int) -> None:
        self.seed, self.global_batch = seed, global_batch
        times = np.ones(len(labels))
        for value in (-1, 1):
            has = labels == value
            factors = np.sqrt(threshold / np.maximum(has.mean(0), 1 / len(labels)))
            times = np.maximum(times, (has * factors).max(1))
        self.faces = np.repeat(np.arange(len(labels), dtype=np.int64), np.rint(times).astype(np.int64))

    def __call__(self, step: int) -> np.ndarray:
        return self.faces[batch_indices(self.seed, step, self.global_batch, len(self.faces))]


class PairedSampler:
    """Batches that alternate: a face of `first`, one of `second` that is like it in group, the next of `first` ...

    `first`, `second`: dataset indices, int64; `groups` int64 [faces of the dataset]. Faces of `first` come once an
    epoch; the partner is drawn from all of its group (from all of `second` where the group has under LEAST_ALIKE). So
    the two halves of a batch differ in what tells `first` from `second`, and not in how many of each group they have.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, groups: np.ndarray, seed: int, global_batch: int) -> None:
        self.first, self.groups, self.seed, self.pairs = first, groups, seed, global_batch // 2
        self.partners: dict[int, np.ndarray] = {}
        for group in np.unique(groups[first]):
            alike = second[groups[second] == group]
            self.partners[int(group)] = alike if len(alike) >= LEAST_ALIKE else second

    def __call__(self, step: int) -> np.ndarray:
        left = self.first[batch_indices(self.seed, step, self.pairs, len(self.first))]
        right = []
        for place, index in enumerate(left):
            alike = self.partners[int(self.groups[index])]
            right.append(alike[generator(self.seed, step, place, "partner").integers(len(alike))])
        return np.stack([left, np.array(right, np.int64)], 1).reshape(-1)


def rank_slice(global_batch: int, rank: int, world_size: int) -> slice:
    """The part of the global batch that a rank computes.

    Raises RayfaceError when the batch cannot be shared out evenly (the mean over ranks would not be the mean over
    samples).
    """
    if global_batch % world_size:
        raise RayfaceError(
            f"global_batch={global_batch} cannot be shared evenly by {world_size} workers; use a multiple of "
            f"{world_size}, for example --set global_batch={-(-global_batch // world_size) * world_size}"
        )
    share = global_batch // world_size
    return slice(rank * share, (rank + 1) * share)
