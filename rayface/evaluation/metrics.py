"""The metrics, by name: training, tuning, evaluation and the command line all call these.

A picture metric takes two uint8 batches [N, 3, S, S] and gives one value per picture, float [N].
"""

import warnings
from collections.abc import Callable
from typing import Any

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
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return {"value": float(statistic(values)), "low": float(low), "high": float(high), "photos": len(values)}


def weighted_bootstrap(
    statistic: Callable[[np.ndarray], Any], units: int, draws: int = 1000, unit: str = "photos"
) -> Any:
    """As `bootstrap`, of a statistic of how often each of `units` (photos, people) counts, float [units].

    For statistics that sort once and weigh often, and for values that belong to several units (pairs of people). Gives
    `{value, low, high, <unit>}`, or a list of them where the statistic has several values; draws that give NaN are left
    out.
    """
    random = np.random.default_rng(0)
    counts = (np.bincount(random.integers(0, units, units), minlength=units) for _ in range(draws))
    samples = [statistic(count.astype(float)) for count in counts]
    value = np.asarray(statistic(np.ones(units)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is NaN in all draws
        low, high = np.nanpercentile(samples, [2.5, 97.5], axis=0)
    rows = np.stack([value, low, high], -1).reshape(-1, 3).tolist()
    entries = [{**dict(zip(("value", "low", "high"), row, strict=True)), unit: units} for row in rows]
    return entries if value.ndim else entries[0]


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The area under the ROC curve per column, as a function of photo weights.

    Scores float [N, A], labels int [N, A] (1, -1, 0 unknown); ties count half; NaN where a class is missing.
    """
    order = scores.argsort(0, kind="stable")
    ranked, sorted_labels = (np.take_along_axis(values, order, 0) for values in (scores, labels))
    columns = np.arange(scores.shape[1])
    first, last = (
        np.stack([np.searchsorted(ranked[:, a], ranked[:, a], side) for a in columns], 1) for side in ("left", "right")
    )

    def statistic(weights: np.ndarray) -> np.ndarray:
        weight = weights[order]
        positive, negative = weight * (sorted_labels > 0), weight * (sorted_labels < 0)
        below = np.concatenate([np.zeros((1, scores.shape[1])), negative.cumsum(0)])
        beaten = (below[first, columns] + below[last, columns]) / 2
        with np.errstate(invalid="ignore"):
            return (positive * beaten).sum(0) / (positive.sum(0) * negative.sum(0))

    return statistic


class RankedScores:
    """Scores in order, for statistics under many weightings (the bootstrap's).

    `scores` float [P]; `same` bool [P]: which of them should be high (pairs of one person, photos with an attribute).
    """

    def __init__(self, scores: np.ndarray, same: np.ndarray) -> None:
        values, self.place = np.unique(scores, return_inverse=True)
        self.count, self.same = len(values), same
        self._auc = area_under_curve(scores[:, None], np.where(same, 1, -1)[:, None])

    def _by_score(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight of same and of different pairs at each score, lowest first."""
        same = np.bincount(self.place, weights * self.same, self.count)
        return same, np.bincount(self.place, weights * ~self.same, self.count)

    def auc(self, weights: np.ndarray) -> float:
        """Area under the ROC curve: how often a same pair scores above a different one; ties count half.

        NaN where either kind has no weight.
        """
        return float(self._auc(weights)[0])

    def tar(self, weights: np.ndarray, far: float) -> float:
        """True accept rate at the lowest threshold that accepts at most `far` of the different pairs."""
        same, different = (part[::-1].cumsum() for part in self._by_score(weights))
        allowed = different <= far * different[-1] + 1e-9
        return float(same[allowed][-1] / same[-1]) if allowed.any() else 0.0
