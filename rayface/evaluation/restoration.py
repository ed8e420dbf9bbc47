"""How well degraded faces are restored: against the degraded input and classical filters, on pinned degradations."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayface.data.degradation import degrade, severity_sets
from rayface.evaluation.metrics import PICTURE_METRICS, bootstrap
from rayface.imaging.codec import to_float, to_uint8

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Predict = Callable[[Tensor], Tensor]


def gaussian_filter(crops: Tensor) -> Tensor:
    """The simplest denoiser, a baseline: a Gaussian of sigma 1 px on uint8 [N, 3, S, S]."""
    from kornia.filters import gaussian_blur2d

    return to_uint8(gaussian_blur2d(to_float(crops), (5, 5), (1.0, 1.0)))


def median_filter(crops: Tensor) -> Tensor:
    """A 3x3 median per channel, a baseline."""
    from kornia.filters import median_blur

    return to_uint8(median_blur(to_float(crops), (3, 3)))


def restoration_report(predict: Predict, dataset: "FaceDataset", batch: int, limit: int | None) -> dict[str, Any]:
    """For each severity set: every picture metric of the model, the untouched input and the classical filters.

    `predict` maps degraded crops uint8 [N, 3, S, S] to restored ones. Degradations depend on the dataset index
    only, so two models see the same inputs. `psnr_gain` is the per-photo difference to the input.
    """
    methods: dict[str, Predict] = {
        "input": lambda crops: crops,
        "gaussian": gaussian_filter,
        "median": median_filter,
        "model": predict,
    }
    total = min(len(dataset), limit or len(dataset))
    values: dict[tuple[str, str, str], list[Tensor]] = {}
    for start in range(0, total, batch):
        indices = range(start, min(start + batch, total))
        clear = dataset.batch(indices, ("image",))["image"]
        assert isinstance(clear, Tensor)
        for severity, (config, generators) in severity_sets(indices).items():
            degraded = to_uint8(degrade(to_float(clear), config, generators))
            for method, function in methods.items():
                restored = function(degraded)
                for metric, measure in PICTURE_METRICS.items():
                    values.setdefault((severity, method, metric), []).append(measure(restored, clear))
    return _summary({key: torch.cat(parts).numpy() for key, parts in values.items()})


def _summary(values: dict[tuple[str, str, str], np.ndarray]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for (severity, method, metric), per_photo in values.items():
        report.setdefault(severity, {}).setdefault(method, {})[metric] = bootstrap(per_photo)
    for severity, methods in report.items():
        gain = values[severity, "model", "psnr"] - values[severity, "input", "psnr"]
        methods["model"]["psnr_gain"] = bootstrap(gain)
    gains = [values[s, "model", "psnr"] - values[s, "input", "psnr"] for s in report]
    return {"psnr_gain": bootstrap(np.mean(gains, 0)), **report}
