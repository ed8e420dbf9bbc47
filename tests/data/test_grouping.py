"""Groups of people and near-duplicates: against brute force, against chaining, in blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayface.data.grouping import AlikePairs, alike, connected, fingerprints, kept_once, person_groups, thumbnails
from rayface.data.splits import hashed_split, unit_split
from rayface.data.synth import draw_face
from rayface.imaging import codec
from rayface.imaging.filters import resize_images


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def angles(*degrees: float) -> np.ndarray:
    turned = np.radians(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], 1).astype(np.float32)


def groups_of(vectors: np.ndarray, threshold: float, known: list[str | None] | None = None) -> list[int]:
    return person_groups(vectors, alike(vectors, threshold), threshold, known).tolist()


def average_linkage(vectors: np.ndarray, threshold: float) -> list[int]:
    """The textbook algorithm on the whole matrix of similarities."""
    groups = [[face] for face in range(len(vectors))]
    similarity = vectors.astype(np.float64) @ vectors.T
    while len(groups) > 1:
        averages = {
            (a, b): similarity[np.ix_(groups[a], groups[b])].mean()
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        }
        (a, b), best = max(averages.items(), key=lambda item: item[1])
        if best < threshold:
            break
        groups[a] += groups.pop(b)
    groups.sort(key=min)
    return [next(g for g, faces in enumerate(groups) if face in faces) for face in range(len(vectors))]


@given(st.integers(0, 10_000), st.integers(2, 14), st.floats(0.2, 0.95))
def test_groups_are_those_of_average_linkage(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(4, 6))
    vectors = unit(people[rng.integers(0, 4, count)] + 0.6 * rng.normal(size=(count, 6)))
    assert groups_of(vectors, threshold) == average_linkage(vectors, threshold)


def test_a_face_between_two_people_does_not_join_them() -> None:
    chain = angles(*range(0, 100, 10))
    pairs = alike(chain, 0.95)  # neighbours up to 18 degrees apart
    links = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert set(connected(len(chain), links).tolist()) == {0}, "connected components chain all of them"
    groups = np.array(groups_of(chain, 0.95))
    spans = [np.ptp(np.arange(0, 100, 10)[groups == group]) for group in set(groups.tolist())]
    assert max(spans) <= 30


def test_known_people_stay_whole_and_apart() -> None:
    vectors = angles(0, 90, 1, 2, 91)
    assert groups_of(vectors, 0.99) == [0, 1, 0, 0, 1]
    assert groups_of(vectors, 0.99, ["Ann", "Ann", None, None, None]) == [0, 0, 1, 1, 2]  # an average of far faces
    assert groups_of(angles(0, 1), 0.99, ["Ann", "Bob"]) == [0, 1]
    known = ["Ann", None, "Bob", None, None]
    groups = groups_of(vectors, 0.99, known)
    assert groups[0] != groups[2]
    assert groups[1] == groups[4]


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 50), st.floats(-0.5, 0.9))
def test_pairs_do_not_depend_on_the_block(seed: int, count: int, block: int, threshold: float) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(count, 4)))
    similarity = vectors @ vectors.T
    expected = [(a, b) for a in range(count) for b in range(a + 1, count) if similarity[a, b] >= threshold]
    found = alike(vectors, threshold, block=block)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert np.allclose(found.similarity, similarity[found.first, found.second], atol=1e-6)


def test_of_a_crowd_of_copies_the_most_alike_pairs_are_kept() -> None:
    vectors = angles(*np.linspace(0, 20, 60))
    found = alike(vectors, 0.5, block=7, limit=3)
    assert np.bincount(found.first).max() == 3
    of_first = found.first == 0
    assert found.second[of_first].tolist() == [1, 2, 3]


def test_a_chain_of_copies_loses_only_what_repeats_a_kept_one() -> None:
    pairs = AlikePairs(np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.9, 0.95, 0.9], np.float32))
    left_out = kept_once(pairs, [0, 1, 2, 3])
    assert left_out == {1: (0, pytest.approx(0.9)), 3: (2, pytest.approx(0.9))}
    assert set(kept_once(pairs, [1, 0, 2, 3])) == {0, 2}


def test_copies_of_a_photo_are_found_and_other_faces_of_the_person_are_not() -> None:
    faces = torch.stack([draw_face(3, index, 128).image for index in range(24)])
    copies = [codec.decode(codec.encode(small, "jpeg", 60)) for small in resize_images(faces[:, :, 2:-1, 1:-2], 80)]
    copies = list(resize_images(torch.stack(copies), 128))  # smaller, cropped a little, compressed, enlarged
    prints = fingerprints(thumbnails(torch.cat([faces, torch.stack(copies)])))
    pairs = alike(prints, 0.87)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(i, i + 24) for i in range(24)]


def test_flat_pictures_are_like_nothing() -> None:
    flat = torch.full((3, 3, 64, 64), 90, dtype=torch.uint8)
    assert len(alike(fingerprints(thumbnails(flat)), 0.1)) == 0


def test_a_unit_has_one_split() -> None:
    assert unit_split(["train", "test", "validation"], "x", "keep") == "test"
    assert unit_split(["train", "validation"], "x", "keep") == "validation"
    assert unit_split(["train", "test"], "key", "hash") == hashed_split("key")
