"""How well degraded faces are restored: against the degraded input and classical filters, on pinned degradations."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayface.data.degradation import degrade, severity_sets
from rayface.evaluation.judges import baselines_wanted, judged_metrics
from rayface.evaluation.metrics import HIGHER_IS_BETTER, PICTURE_METRICS, PictureMetric, bootstrap
from rayface.evaluation.subgroups import record
from rayface.imaging.codec import to_float, to_uint8

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Predict = Callable[[Tensor], Tensor]
Values = dict[tuple[str, str], np.ndarray]  # (method, metric) -> one value a photo


def gaussian_filter(crops: Tensor) -> Tensor:
    """The simplest denoiser, a baseline: a Gaussian of sigma 1 px on uint8 [N, 3, S, S]."""
    from kornia.filters import gaussian_blur2d

    return to_uint8(gaussian_blur2d(to_float(crops), (5, 5), (1.0, 1.0)))


def median_filter(crops: Tensor) -> Tensor:
    """A 3x3 median per channel, a baseline."""
    from kornia.filters import median_blur

    return to_uint8(median_blur(to_float(crops), (3, 3)))


def bilateral_filter(crops: Tensor) -> Tensor:
    """A denoiser that keeps edges, a baseline: 5x5, sigma 1.5 px and 0.2 of the range."""
    from kornia.filters import bilateral_blur

    return to_uint8(bilateral_blur(to_float(crops), (5, 5), 0.4, (1.5, 1.5)))


def unsharp_mask(crops: Tensor) -> Tensor:
    """The classical answer to blur, a baseline: the picture plus its difference to a Gaussian of sigma 1.5 px."""
    from kornia.filters import unsharp_mask

    return to_uint8(unsharp_mask(to_float(crops), (9, 9), (1.5, 1.5)))


CLASSICAL: dict[str, Predict] = {
    "gaussian": gaussian_filter,
    "median": median_filter,
    "bilateral": bilateral_filter,
    "unsharp": unsharp_mask,
}

# The parts of a severity's report that are no method's metrics.
COMPARISONS = ("best_classical", "gain_over_input", "gain_over_best_classical", "perceptual_gain")


def restoration_report(
    predict: Predict,
    dataset: "FaceDataset",
    batch: int,
    limit: int | None,
    others: Mapping[str, Predict] | None = None,
) -> dict[str, Any]:
    """Every picture metric, and the judges' where they are at hand, of the model and of what it must beat.

    `predict` maps degraded crops uint8 [N, 3, S, S] to restored ones; `others` are further methods for the same
    table. Degradations depend on the dataset index only, so two models see the same inputs.

    For each severity and for `all` (the mean of a photo's severities): each method's metrics; `best_classical`: per
    metric the filter with the best mean here, so a baseline chosen on the test photos themselves, in its favour;
    `gain_over_input` and `gain_over_best_classical`: the model's improvement per photo in the metric's own unit,
    above 0 where it is better; `perceptual_gain`: by how many percent the mean perceptual distance falls.
    """
    rivals = CLASSICAL if baselines_wanted() else {}
    methods: dict[str, Predict] = {"input": lambda crops: crops, **rivals, **(others or {}), "model": predict}
    metrics: dict[str, PictureMetric] = {**PICTURE_METRICS, **judged_metrics()}
    values: dict[tuple[str, str, str], list[Tensor]] = {}
    total = min(len(dataset), limit or len(dataset))
    for start in range(0, total, batch):
        indices = range(start, min(start + batch, total))
        clear = dataset.batch(indices, ("image",))["image"]
        assert isinstance(clear, Tensor)
        for severity, (config, generators) in severity_sets(indices).items():
            degraded = to_uint8(degrade(to_float(clear), config, generators))
            for method, function in methods.items():
                restored = function(degraded)
                for metric, measure in metrics.items():
                    values.setdefault((severity, method, metric), []).append(measure(restored, clear))
    severities: dict[str, Values] = {}
    for (severity, method, metric), parts in values.items():
        severities.setdefault(severity, {})[method, metric] = torch.cat(parts).numpy()
    keys = next(iter(severities.values()))
    severities["all"] = {key: np.mean([table[key] for table in severities.values()], 0) for key in keys}
    for (method, metric), per_photo in severities["all"].items():
        if method == "model":
            record(metric, per_photo)
    record("psnr_gain", improvement(severities["all"], "psnr", "input"))
    report: dict[str, Any] = {severity: summary(table) for severity, table in severities.items()}
    return {"psnr_gain": report["all"]["model"]["psnr_gain"], **report}


def summary(values: Values) -> dict[str, Any]:
    """One severity's part of the report; see `restoration_report`."""
    result: dict[str, Any] = {}
    for (method, metric), per_photo in values.items():
        result.setdefault(method, {})[metric] = bootstrap(per_photo)
    best: dict[str, Any] = {}
    for metric in result["model"]:
        result.setdefault("gain_over_input", {})[metric] = bootstrap(improvement(values, metric, "input"))
        if baselines_wanted():
            name, gain = best_classical(values, metric)
            best[metric] = name
            result.setdefault("best_classical", {})[metric] = {name: result[name][metric]}
            result.setdefault("gain_over_best_classical", {})[metric] = bootstrap(gain)
    result["model"]["psnr_gain"] = result["gain_over_input"]["psnr"]
    if "perceptual_distance" in best:
        ours = values["model", "perceptual_distance"]
        rivals = {"over_input": "input", "over_best_classical": best["perceptual_distance"]}
        result["perceptual_gain"] = {
            name: bootstrap(np.stack([ours, values[rival, "perceptual_distance"]], 1), percent_less)
            for name, rival in rivals.items()
        }
    return result


def best_classical(values: Values, metric: str) -> tuple[str, np.ndarray]:
    """The filter that is best at a metric on these photos, and the model's improvement on it per photo."""
    gains = {name: improvement(values, metric, name) for name in CLASSICAL}
    best = min(gains, key=lambda name: float(gains[name].mean()))
    return best, gains[best]


def improvement(values: Values, metric: str, rival: str) -> np.ndarray:
    """Per photo, by how much the model is better than a rival."""
    difference = values["model", metric] - values[rival, metric]
    return difference if metric in HIGHER_IS_BETTER else -difference


def percent_less(pairs: np.ndarray) -> float:
    """By how many percent the mean of the first column lies below that of the second; [N, 2]."""
    ours, theirs = pairs.mean(0)
    return float(100 * (1 - ours / theirs))
