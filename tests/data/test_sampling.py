import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayface.data.sampling import LEAST_ALIKE, PairedSampler, batch_indices, rank_slice
from rayface.errors import RayfaceError


@given(length=st.integers(1, 200), batch=st.integers(1, 64), seed=st.integers(0, 1000))
def test_every_face_comes_once_an_epoch(length: int, batch: int, seed: int) -> None:
    steps = -(-3 * length // batch)
    drawn = np.concatenate([batch_indices(seed, step, batch, length) for step in range(steps)])
    for epoch in range(3):
        assert sorted(drawn[epoch * length : (epoch + 1) * length]) == list(range(length))


@given(batch=st.integers(1, 64), world=st.integers(1, 8))
def test_ranks_share_the_batch_out(batch: int, world: int) -> None:
    if batch % world:
        with pytest.raises(RayfaceError, match=f"multiple of {world}"):
            rank_slice(batch, 0, world)
        return
    indices = batch_indices(3, 5, batch, 97)
    shared = np.concatenate([indices[rank_slice(batch, rank, world)] for rank in range(world)])
    assert (shared == indices).all()


def test_another_seed_is_another_order() -> None:
    assert (batch_indices(0, 0, 50, 100) != batch_indices(1, 0, 50, 100)).any()


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(RayfaceError, match="empty"):
        batch_indices(0, 0, 4, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=40, max_size=120), st.integers(0, 50))
def test_partners_are_of_the_same_group(faces: list[tuple[bool, int]], seed: int) -> None:
    kinds, groups = (np.array(values) for values in zip(*faces, strict=True))
    first, second = np.flatnonzero(~kinds), np.flatnonzero(kinds)
    if not (len(first) and len(second)):
        return
    choose = PairedSampler(first, second, groups, seed, 8)
    steps = -(-len(first) // 4)
    pairs = np.concatenate([choose(step).reshape(-1, 2) for step in range(steps)])
    assert set(pairs[:, 0]) == set(first), "every face of the first kind comes in an epoch"
    assert set(pairs[:, 1]) <= set(second)
    for left, right in pairs:
        enough = (groups[second] == groups[left]).sum() >= LEAST_ALIKE
        assert not enough or groups[left] == groups[right]
    assert (choose(3) == choose(3)).all()
