"""How well small pictures are enlarged: against interpolation, on pinned inputs, clean and as photos come."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rayface.data.degradation import EVALUATION_SEED
from rayface.data.reduction import CLEAN, MILD, reduce
from rayface.evaluation.judges import judged_metrics
from rayface.evaluation.metrics import PICTURE_METRICS, PictureMetric, bootstrap
from rayface.evaluation.restoration import Values, improvement, percent_less
from rayface.evaluation.subgroups import record
from rayface.imaging.codec import to_float, to_uint8
from rayface.randomness import generator

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Enlarge = Callable[[Tensor, int], Tensor]
INPUTS = {"clean": CLEAN, "mild": MILD}


def lanczos(small: Tensor, scale: int) -> Tensor:
    """Pillow's Lanczos enlargement of uint8 [N, 3, H, W], a baseline."""
    from PIL import Image

    size = (small.shape[-1] * scale, small.shape[-2] * scale)
    pictures = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in small.cpu()]
    large = [np.array(picture.resize(size, Image.Resampling.LANCZOS)) for picture in pictures]
    return torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2)


def bicubic(small: Tensor, scale: int) -> Tensor:
    """What the network starts from, a baseline."""
    return to_uint8(interpolate(to_float(small), scale_factor=float(scale), mode="bicubic", align_corners=False))


def nearest(small: Tensor, scale: int) -> Tensor:
    return small.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def super_resolution_report(
    predict: Enlarge,
    scales: Sequence[int],
    dataset: "FaceDataset",
    batch: int,
    limit: int | None,
    others: Mapping[str, Enlarge] | None = None,
) -> dict[str, Any]:
    """Every picture metric, and the judges' where they are at hand, of the model and of the interpolations.

    `predict` maps small pictures uint8 [N, 3, S, S] and a scale to large ones; `others` are further methods for the
    same table. Inputs depend on the dataset index only, so two models see the same.

    For each scale and kind of input: each method's metrics; `gain_over_lanczos`: the model's improvement per photo in
    the metric's own unit, above 0 where it is better; `perceptual_gain`: by how many percent the mean perceptual
    distance falls below Lanczos'.
    """
    methods: dict[str, Enlarge] = {"nearest": nearest, "bicubic": bicubic, "lanczos": lanczos, **(others or {})}
    metrics: dict[str, PictureMetric] = {**PICTURE_METRICS, **judged_metrics()}
    values: dict[str, dict[tuple[str, str], list[Tensor]]] = {}
    total = min(len(dataset), limit or len(dataset))
    for start in range(0, total, batch):
        indices = range(start, min(start + batch, total))
        clear = dataset.batch(indices, ("image",))["image"]
        assert isinstance(clear, Tensor)
        for case, scale, small in pinned_inputs(clear, scales, indices):
            for method, enlarge in {**methods, "model": predict}.items():
                large = enlarge(small, scale)
                for metric, measure in metrics.items():
                    values.setdefault(case, {}).setdefault((method, metric), []).append(measure(large, clear))
    tables = {case: {key: torch.cat(parts).numpy() for key, parts in table.items()} for case, table in values.items()}
    return {case: _summary(case, table) for case, table in tables.items()}


def pinned_inputs(clear: Tensor, scales: Sequence[int], indices: Sequence[int]) -> Iterator[tuple[str, int, Tensor]]:
    """(name, scale, small pictures uint8) of every case, for clear pictures uint8 [N, 3, S, S] of these indices."""
    for scale in scales:
        for kind, config in INPUTS.items():
            case = f"x{scale}_{kind}"
            generators = [generator(EVALUATION_SEED, 0, index, f"evaluation-{case}") for index in indices]
            yield case, scale, to_uint8(reduce(to_float(clear), scale, config, generators))


def _summary(case: str, values: Values) -> dict[str, Any]:
    """One case's part of the report."""
    result: dict[str, Any] = {}
    for (method, metric), per_photo in values.items():
        result.setdefault(method, {})[metric] = bootstrap(per_photo)
    for metric in result["model"]:
        gain = improvement(values, metric, "lanczos")
        result.setdefault("gain_over_lanczos", {})[metric] = bootstrap(gain)
        record(f"{case}, {metric} gain over Lanczos", gain)
    if "perceptual_distance" in result["model"]:
        pair = [values[method, "perceptual_distance"] for method in ("model", "lanczos")]
        result["perceptual_gain"] = {"over_lanczos": bootstrap(np.stack(pair, 1), percent_less)}
    return result
