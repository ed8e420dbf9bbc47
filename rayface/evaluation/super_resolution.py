"""How well small pictures are enlarged: against interpolation, on pinned inputs, clean and as photos come."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rayface.data.degradation import EVALUATION_SEED
from rayface.data.reduction import CLEAN, MILD, reduce
from rayface.evaluation.metrics import PICTURE_METRICS, bootstrap
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
    predict: Enlarge, scales: Sequence[int], dataset: "FaceDataset", batch: int, limit: int | None
) -> dict[str, Any]:
    """For each scale and kind of input: every picture metric of the model and of the interpolations.

    `predict` maps small pictures uint8 [N, 3, S, S] and a scale to large ones. Inputs depend on the dataset index
    only, so two models see the same. `over_lanczos` is the per-photo difference to Lanczos, the usual choice.
    """
    methods: dict[str, Enlarge] = {"nearest": nearest, "bicubic": bicubic, "lanczos": lanczos, "model": predict}
    total = min(len(dataset), limit or len(dataset))
    values: dict[tuple[str, str, str], list[Tensor]] = {}
    for start in range(0, total, batch):
        indices = range(start, min(start + batch, total))
        clear = dataset.batch(indices, ("image",))["image"]
        assert isinstance(clear, Tensor)
        for scale in scales:
            for kind, config in INPUTS.items():
                case = f"x{scale}_{kind}"
                generators = [generator(EVALUATION_SEED, 0, index, f"evaluation-{case}") for index in indices]
                small = to_uint8(reduce(to_float(clear), scale, config, generators))
                for method, enlarge in methods.items():
                    large = enlarge(small, scale)
                    for metric, measure in PICTURE_METRICS.items():
                        values.setdefault((case, method, metric), []).append(measure(large, clear))
    return _summary({key: torch.cat(parts).numpy() for key, parts in values.items()})


def _summary(values: dict[tuple[str, str, str], np.ndarray]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for (case, method, metric), per_photo in values.items():
        report.setdefault(case, {}).setdefault(method, {})[metric] = bootstrap(per_photo)
        if method == "model":
            gain = bootstrap(per_photo - values[case, "lanczos", metric])
            report[case].setdefault("over_lanczos", {})[metric] = gain
            record(f"{case}, {metric} over Lanczos", per_photo - values[case, "lanczos", metric])
    return report
