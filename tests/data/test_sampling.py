import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayface.data.sampling import (
    LEAST_ALIKE,
    PairedSampler,
    RatioSampler,
    RepeatSampler,
    batch_indices,
    quotas,
    rank_slice,
)
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


@given(
    ratio=st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(any),
    global_batch=st.integers(1, 64),
)
def test_quotas_are_the_ratio_to_less_than_one_face(ratio: list[int], global_batch: int) -> None:
    wanted = np.array(ratio) / sum(ratio) * global_batch
    if ((wanted < 1) & (wanted > 0)).any():  # that class may be left out, and is told
        return
    counts = quotas(ratio, global_batch)
    assert counts.sum() == global_batch
    assert (np.abs(counts - wanted) < 1).all()
    assert (counts[np.array(ratio) == 0] == 0).all()


def test_the_batch_that_a_ratio_needs_is_told_and_is_enough() -> None:
    with pytest.raises(RayfaceError, match="20 is enough"):
        quotas([10, 9, 1], 4)
    assert quotas([10, 9, 1], 20).tolist() == [10, 9, 1]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_batch_holds_the_classes_in_the_ratio_on_any_number_of_ranks(ranks: int) -> None:
    """SPEC B1, B2: exact in every batch, and after a resume, as a step's batch is a function of the step."""
    classes = np.repeat([0, 1, 2, 3], [70, 20, 9, 1])
    choose = RatioSampler(classes, (4, 2, 2, 2), seed=3, global_batch=10)
    for step in (0, 1, 7, 1000):
        batch = choose(step)
        parts = np.concatenate([batch[rank_slice(10, rank, ranks)] for rank in range(ranks)])
        assert np.bincount(classes[parts], minlength=4).tolist() == [4, 2, 2, 2]
        assert np.array_equal(batch, RatioSampler(classes, (4, 2, 2, 2), seed=3, global_batch=10)(step))


def test_ranks_share_the_classes_evenly_and_every_face_of_a_class_comes_once_an_epoch() -> None:
    classes = np.repeat([0, 1], [40, 10])
    choose = RatioSampler(classes, (1, 1), seed=0, global_batch=8)
    halves = [np.bincount(classes[choose(step)[rank_slice(8, rank, 2)]]) for step in range(5) for rank in range(2)]
    assert all(half.tolist() == [2, 2] for half in halves)
    rare = np.concatenate([choose(step) for step in range(5)])
    seen = np.bincount(rare[classes[rare] == 1], minlength=50)[40:]
    assert (seen == 2).all()  # 5 batches of 4 rare faces, of 10


def test_rare_faces_come_round_more_often() -> None:
    labels = np.full((100, 2), -1, np.int8)
    labels[:8, 0] = 1  # sqrt(0.5 / 0.08) = 2.5
    labels[:50, 1] = 1
    labels[99] = 0  # nothing is known of it
    drawn = RepeatSampler(labels, 0.5, 3, len(RepeatSampler(labels, 0.5, 3, 1).faces))(0)
    times = np.bincount(drawn, minlength=100)
    assert (times[:8] == 2).all()
    assert (times[8:] == 1).all()


@given(st.lists(st.lists(st.integers(-1, 1), min_size=3, max_size=3), min_size=1, max_size=60), st.integers(0, 50))
def test_every_face_comes_however_common(labels: list[list[int]], seed: int) -> None:
    choose = RepeatSampler(np.array(labels, np.int8), 0.5, seed, 4)
    steps = -(-len(choose.faces) // 4)
    assert set(np.concatenate([choose(step) for step in range(steps)])) == set(range(len(labels)))
    assert (choose(2) == choose(2)).all()
