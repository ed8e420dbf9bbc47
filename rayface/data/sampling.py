"""Which faces a step trains on: a permutation per epoch, keyed by the seed, the same on every number of ranks."""

from collections.abc import Callable

import numpy as np

from rayface.errors import RayfaceError
from rayface.randomness import generator

# step -> dataset indices, int64 [global_batch]; can be pickled, as loaders run in other processes
Sampler = Callable[[int], np.ndarray]
LEAST_ALIKE = 8  # fewer partners of a group would be seen again and again


def batch_indices(seed: int, step: int, global_batch: int, length: int) -> np.ndarray:
    """Dataset indices, int64 [global_batch], of the whole batch of `step`.

    Epochs follow each other without a gap: position p = step * global_batch + i is face p % length of the
    permutation of epoch p // length, so every face comes once per epoch and a batch may span two.
    """
    if length < 1:
        raise RayfaceError("the training split is empty; ingest more photos or choose another split")
    positions = step * global_batch + np.arange(global_batch, dtype=np.int64)
    indices = np.empty(global_batch, np.int64)
    for epoch in np.unique(positions // length):
        order = generator(seed, int(epoch), 0, "epoch order").permutation(length)
        here = positions // length == epoch
        indices[here] = order[positions[here] % length]
    return indices


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
