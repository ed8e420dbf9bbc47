"""Losses that several systems share. Each is a mean over samples of per-sample values."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def laplacian_bands(images: Tensor, levels: int = 3) -> list[Tensor]:
    """Differences between a picture [N, 3, S, S] and its smoothed copies at `levels` scales, finest first."""
    bands = []
    for _ in range(levels):
        smaller = F.avg_pool2d(images, 2)
        larger = F.interpolate(smaller, scale_factor=2.0, mode="bilinear", align_corners=False)
        bands.append(images - larger)
        images = smaller
    return bands


def identity_loss(recogniser: nn.Module, made: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine of what a recogniser says of two pictures [N, 3, S, S]: 0 for the same person."""
    return (1 - F.cosine_similarity(recogniser(made).float(), recogniser(wanted).float())).mean()


def detail_loss(made: Tensor, clear: Tensor) -> Tensor:
    """L1 of the Laplacian pyramid's bands of two pictures [N, 3, S, S]: edges and texture."""
    pairs = zip(laplacian_bands(made), laplacian_bands(clear), strict=True)
    return torch.stack([F.l1_loss(ours, theirs) for ours, theirs in pairs]).mean()
