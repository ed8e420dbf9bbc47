"""Boxes, float32 [N, 4], x0 y0 x1 y1: squares, relative shifts, suppression of doubles."""

import numpy as np
import torch
from torch import Tensor


def square(boxes: Tensor) -> Tensor:
    """Squares around the same centres, as large as the boxes' longer sides."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], 1)


def shift(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Boxes whose four edges are moved by `offsets` [N, 4], in box widths (x) and heights (y)."""
    return boxes + offsets * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    overlap: float,
    limit: int | None = None,
    of_smaller: bool = False,
) -> Tensor:
    """Greedy non-maximum suppression inside each group; the indices kept, by group and then from the best down.

    A box goes where a better one of its group overlaps it by more than `overlap`: intersection over union, or over
    the smaller of the two areas (`of_smaller`). At most `limit` of a group, its best, are looked at. In numpy,
    because torchvision's own costs four seconds of import and is no faster for the few hundred boxes of a photo.
    """
    numbers, ids = boxes.detach().cpu().double().numpy(), groups.cpu().numpy()
    order = np.lexsort((-scores.detach().cpu().numpy(), ids))
    kept: list[int] = []
    for group in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1):
        kept += _greedy(numbers, group[:limit], overlap, of_smaller)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def _greedy(boxes: np.ndarray, rest: np.ndarray, overlap: float, of_smaller: bool) -> list[int]:
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(int(best))
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = sides.clip(0).prod(1)
        whole = np.minimum(areas[best], areas[rest]) if of_smaller else areas[best] + areas[rest] - shared
        rest = rest[shared <= overlap * whole]
    return kept
