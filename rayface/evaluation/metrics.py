"""The metrics, by name: training, tuning, evaluation and the command line all call these.

A picture metric takes two uint8 batches [N, 3, S, S] and gives one value per picture, float [N].
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

PictureMetric = Callable[[Tensor, Tensor], Tensor]
PICTURE_METRICS: dict[str, PictureMetric] = {}  # those of the judges are in evaluation.judges
HIGHER_IS_BETTER = {"psnr", "ssim"}  # the others are distances


def picture_metric(function: PictureMetric) -> PictureMetric:
    PICTURE_METRICS[function.__name__] = function
    return function


@picture_metric
def psnr(pictures: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB; 100 where the two are equal."""
    error = (pictures.double() - reference.double()).square().mean((1, 2, 3))
    return (10 * torch.log10(255**2 / error.clamp_min(255**2 / 1e10))).float()


@picture_metric
def ssim(pictures: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), higher is better, at most 1."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(pictures.float(), reference.float(), data_range=255.0, reduction="none")
    return torch.as_tensor(value)


@picture_metric
def colour_shift(pictures: Tensor, reference: Tensor) -> Tensor:
    """How far the mean colour moved, in levels of 255 (largest channel); lower is better."""
    means = pictures.float().mean((2, 3)) - reference.float().mean((2, 3))
    return means.abs().amax(1)


def bootstrap(values: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean, draws: int = 1000) -> dict:
    """A statistic over photos (axis 0) with its 95 % bootstrap interval: `{value, low, high, photos}`."""
    random = np.random.default_rng(0)
    samples: list[float] = []
    together = max(1, 1_000_000 // max(1, len(values)))  # draws; reports have hundreds of means, so these are quick
    for start in range(0, draws, together):
        chosen = random.integers(0, len(values), (min(together, draws - start), len(values)))
        if statistic is np.mean and values.ndim == 1:
            samples.extend(values[chosen].mean(1))
        else:
            samples.extend(statistic(values[rows]) for rows in chosen)
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"value": float(statistic(values)), "low": float(low), "high": float(high), "photos": len(values)}
