"""Grids of crops for people to look at."""

from collections.abc import Sequence

import torch
from torch import Tensor


def grid(rows: Sequence[Tensor], gap: int = 4) -> Tensor:
    """Rows of uint8 [N, 3, S, S] crops of one size -> one picture uint8 [3, H, W] on white."""
    count = max(len(row) for row in rows)
    size = rows[0].shape[-1]
    cell = size + gap
    picture = torch.full((3, len(rows) * cell + gap, count * cell + gap), 255, dtype=torch.uint8)
    for y, row in enumerate(rows):
        for x, crop in enumerate(row):
            top, left = gap + y * cell, gap + x * cell
            picture[:, top : top + size, left : left + size] = crop
    return picture


def mark(crops: Tensor, points: Tensor) -> Tensor:
    """Crops uint8 [N, 3, S, S] with green dots at points [N, P, 2], given in sides of the crop; a copy."""
    size = crops.shape[-1]
    marked, radius = crops.clone(), max(1, size // 64)
    for crop, places in zip(marked, (points.cpu() * size).round().long().tolist(), strict=True):
        for x, y in places:
            if 0 <= x < size and 0 <= y < size:
                rows = slice(max(0, y - radius), y + radius)
                crop[:, rows, max(0, x - radius) : x + radius] = crop.new_tensor([0, 255, 0])[:, None, None]
    return marked
