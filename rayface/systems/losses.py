"""Losses that several systems share. Each is a mean over samples of per-sample values."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def laplacian_bands(images: Tensor, levels: int = 3) -> list[Tensor]:
    """Differences between a picture [N, 3, S, S] and its smoothed copies at `levels` scales, finest first."""
    bands = []
    for _ in range(levels):
        smaller = F.avg_pool2d(images, 2)
        larger = F.interpolate(smaller, scale_factor=2.0, mode="bilinear", align_corners=False)
        bands.append(images - larger)
        images = smaller
    return bands


def detail_loss(made: Tensor, clear: Tensor) -> Tensor:
    """L1 of the Laplacian pyramid's bands of two pictures [N, 3, S, S]: edges and texture."""
    pairs = zip(laplacian_bands(made), laplacian_bands(clear), strict=True)
    return torch.stack([F.l1_loss(ours, theirs) for ours, theirs in pairs]).mean()


def feature_distance(made: Sequence[Tensor], clear: Sequence[Tensor]) -> Tensor:
    """Perceptual distance of two pictures from their feature maps [N, C_i, s_i, s_i], one pair a stage: float [N].

    Features are scaled to unit length over channels at every pixel, as in LPIPS (Zhang et al. 2018, without its
    learned weights), so that every stage and every pixel counts alike.
    """
    distances = []
    for ours, theirs in zip(made, clear, strict=True):
        difference = F.normalize(ours.float(), dim=1) - F.normalize(theirs.float(), dim=1)
        distances.append(difference.square().sum(1).mean((1, 2)))
    return torch.stack(distances).mean(0)
