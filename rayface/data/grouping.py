"""Which faces are of one person, and which are the same photo again: numpy only, one node, bounded memory.

All pairs are looked at in blocks of matrix products (N^2 D multiplications, no N x N matrix); only pairs that are
alike are kept, at most `NEIGHBOURS` a face. So a million faces need about N (D + NEIGHBOURS) numbers.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayface.imaging.filters import gaussian_blur, luminance

THUMBNAIL_SIDE = 16
NEIGHBOURS = 64  # most alike pairs kept of a face
_THUMBNAIL_BLUR = 1.5  # pixels of the thumbnail; what is coarser (dark hair, bright ground) is no sign of one photo
_BLOCK = 2048


@dataclass(frozen=True)
class AlikePairs:
    """Pairs of rows that are alike: int64 `first` < `second`, float32 `similarity`, all [P], sorted."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def above(self, threshold: float) -> "AlikePairs":
        """Those whose similarity is at least `threshold`."""
        chosen = self.similarity >= threshold
        return AlikePairs(self.first[chosen], self.second[chosen], self.similarity[chosen])


def thumbnails(crops: Tensor) -> np.ndarray:
    """Crops uint8 [N, 3, S, S] -> what near-duplicates are found by: uint8 [N, 256], 16 x 16 luminance."""
    small = F.interpolate(luminance(crops)[:, None], size=(THUMBNAIL_SIDE, THUMBNAIL_SIDE), mode="area")
    return (small.clamp(0, 1) * 255).round().to(torch.uint8).flatten(1).cpu().numpy()


def fingerprints(small: np.ndarray) -> np.ndarray:
    """Thumbnails uint8 [N, 256] -> float32 [N, 256] of unit length: their detail, without brightness and contrast.

    The dot product of two is the correlation of their detail. A flat picture gives zeros: it is like no other.
    """
    made = np.empty(small.shape, np.float32)
    for start in range(0, len(small), _BLOCK):  # at once the blur takes tens of times the room of what it gives
        part = slice(start, start + _BLOCK)
        grey = torch.from_numpy(small[part].astype(np.float32)).reshape(-1, 1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        detail = (grey - gaussian_blur(grey, _THUMBNAIL_BLUR)).flatten(1)
        detail = detail - detail.mean(1, keepdim=True)
        length = detail.norm(dim=1, keepdim=True)
        made[part] = torch.where(length > 1, detail / length.clamp_min(1), 0).numpy()  # below 1: rounding, no picture
    return made


def alike(vectors: np.ndarray, threshold: float, block: int = _BLOCK, limit: int = NEIGHBOURS) -> AlikePairs:
    """The pairs of `vectors` (float32 [N, D], unit length, or zeros: like nobody) whose dot product is >= `threshold`.

    Of each face at most the `limit` pairs with later faces that are most alike; `block` rows are multiplied with
    `block` others at a time, which bounds memory and does not change the result.
    """
    rows = np.flatnonzero(vectors.any(1))
    vectors = vectors[rows]
    found = [pair for start in range(0, len(vectors), block) for pair in _rows(vectors, start, threshold, block, limit)]
    if not found:
        return AlikePairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    first, second, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((second, first))
    return AlikePairs(rows[first[order]], rows[second[order]], similarity[order])


def _rows(
    vectors: np.ndarray, start: int, threshold: float, block: int, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The pairs of rows start..start + block with later ones."""
    rows = vectors[start : start + block]
    kept = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    for other in range(start, len(vectors), block):
        similarity = rows @ vectors[other : other + block].T
        first, second = np.nonzero(similarity >= threshold)
        values = similarity[first, second]
        first, second = first + start, second + other
        later = first < second
        kept = (
            np.concatenate([kept[0], first[later]]),
            np.concatenate([kept[1], second[later]]),
            np.concatenate([kept[2], values[later]]),
        )
        if len(kept[0]) > limit * len(rows):
            kept = _most_alike(kept, limit)
    yield _most_alike(kept, limit)


def _most_alike(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray], limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every first row the `limit` most alike pairs, earlier rows first where equal."""
    first, second, similarity = pairs
    order = np.lexsort((second, -similarity, first))
    ranked = first[order]
    starts = np.r_[0, np.flatnonzero(np.diff(ranked)) + 1] if len(ranked) else np.zeros(0, np.int64)
    counts = np.diff(np.r_[starts, len(ranked)])
    rank = np.arange(len(ranked)) - np.repeat(starts, counts)
    order = order[rank < limit]
    return first[order], second[order], similarity[order]


def person_groups(
    embeddings: np.ndarray, pairs: AlikePairs, threshold: float, known: Sequence[str | None] | None = None
) -> np.ndarray:
    """A group number for each face, int64 [N], numbered by first appearance.

    Average linkage (UPGMA; Sokal and Michener 1958): the two groups that are most alike on average over all pairs
    of their faces are joined, as long as that is at least `threshold`. Unlike connected components it does not
    chain: one face between two people does not join them. `pairs` are those of `alike` at the same threshold; an
    average reaches it only where a pair does, so nothing else need be looked at. The average similarity of two
    groups is the product of their sums over the product of their sizes, so memory stays N x D.

    Faces of one `known` identity are one group from the start; faces of different ones are never joined.
    """
    clusters = _Clusters(embeddings, known or [None] * len(embeddings))
    clusters.connect(pairs)
    clusters.join(threshold)
    return clusters.labels()


class _Clusters:
    """Groups under construction, by number; a joined group gets a new number, so old heap entries are seen to be."""

    def __init__(self, embeddings: np.ndarray, known: Sequence[str | None]) -> None:
        self.members: dict[int, list[int]] = {}
        self.sums: dict[int, np.ndarray] = {}
        self.known: dict[int, str | None] = {}
        self.near: dict[int, set[int]] = {}
        self.heap: list[tuple[float, int, int]] = []
        self.size = len(embeddings)
        of_person: dict[str, int] = {}
        for face, person in enumerate(known):
            if person is not None and person in of_person:
                group = of_person[person]
                self.members[group].append(face)
                self.sums[group] = self.sums[group] + embeddings[face]
                continue
            if person is not None:
                of_person[person] = face
            self.members[face], self.sums[face], self.known[face] = [face], embeddings[face], person
        self.group_of = np.arange(self.size)
        for group, faces in self.members.items():
            self.group_of[faces] = group

    def connect(self, pairs: AlikePairs) -> None:
        first, second = self.group_of[pairs.first].tolist(), self.group_of[pairs.second].tolist()
        for a, b in zip(first, second, strict=True):
            if a != b and not self._apart(a, b):
                self.near.setdefault(a, set()).add(b)
                self.near.setdefault(b, set()).add(a)

    def join(self, threshold: float) -> None:
        for a in sorted(self.near):
            self._offer(a, threshold, later_only=True)
        number = self.size
        while self.heap:
            _, a, b = heapq.heappop(self.heap)
            if a in self.members and b in self.members:
                self._merge(a, b, number)
                self._offer(number, threshold)
                number += 1

    def _apart(self, a: int, b: int) -> bool:
        return self.known[a] is not None and self.known[b] is not None and self.known[a] != self.known[b]

    def _offer(self, a: int, threshold: float, later_only: bool = False) -> None:
        """Put the pairs of group `a` with its neighbours on the heap where they are alike enough."""
        others = sorted(b for b in self.near.get(a, ()) if not later_only or b > a)
        if not others:
            return
        counts = np.array([len(self.members[b]) for b in others]) * len(self.members[a])
        average = np.stack([self.sums[b] for b in others]) @ self.sums[a] / counts
        for b, value in zip(others, average.tolist(), strict=True):
            if value >= threshold:
                heapq.heappush(self.heap, (-value, min(a, b), max(a, b)))

    def _merge(self, a: int, b: int, number: int) -> None:
        self.members[number] = self.members.pop(a) + self.members.pop(b)
        self.sums[number] = self.sums.pop(a) + self.sums.pop(b)
        self.known[number] = self.known[a] if self.known[a] is not None else self.known[b]
        near = (self.near.pop(a) | self.near.pop(b)) - {a, b}
        for other in near:
            self.near[other] -= {a, b}
        self.near[number] = {other for other in near if not self._apart(number, other)}
        for other in self.near[number]:
            self.near[other].add(number)

    def labels(self) -> np.ndarray:
        for group, faces in self.members.items():
            self.group_of[faces] = group
        _, first, inverse = np.unique(self.group_of, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def kept_once(pairs: AlikePairs, order: Sequence[int] | np.ndarray) -> dict[int, tuple[int, float]]:
    """Near-duplicates to leave out: `{face: (the kept face it repeats, similarity)}`.

    Faces are gone through in `order` (best first); one is left out when it is paired with a kept one. So a chain of
    ever less similar pictures loses only those that repeat a picture that stays.
    """
    near: dict[int, list[tuple[int, float]]] = {}
    for a, b, similarity in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True):
        near.setdefault(a, []).append((b, similarity))
        near.setdefault(b, []).append((a, similarity))
    kept: set[int] = set()
    left_out: dict[int, tuple[int, float]] = {}
    for face in (int(face) for face in order):
        repeats = [(similarity, -other) for other, similarity in near.get(face, ()) if other in kept]
        if repeats:
            similarity, other = max(repeats)
            left_out[face] = (-other, similarity)
        else:
            kept.add(face)
    return left_out


def connected(count: int, links: Sequence[tuple[int, int]]) -> np.ndarray:
    """Union-find: the smallest member of the component of each of `count` items, int64 [count]."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(item) for item in range(count)], np.int64)
