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
