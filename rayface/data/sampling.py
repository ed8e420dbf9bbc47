"""Which faces a step trains on: a permutation per epoch, keyed by the seed, the same on every number of ranks."""

import numpy as np

from rayface.errors import RayfaceError
from rayface.randomness import generator


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
