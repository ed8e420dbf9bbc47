"""EfficientNet-Lite (Tan & Le 2019; the Lite variants of TensorFlow's TPU models) as a network of feature maps.

Batch norms are folded into the convolutions (`pretrained.efficientnet` does it while it reads the weights), so there
are no batch statistics. The depthwise convolutions are grouped: a pretrained network is used as it is, not pruned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Expansion, channels, blocks, stride, kernel of EfficientNet-B0's groups of blocks.
GROUPS = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip
# Which groups make a stage: those of one scale, 1/2 to 1/32.
STAGES = ((0,), (1,), (2,), (3, 4), (5, 6))
MULTIPLIERS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))  # width and depth of variants 0, 1, 2
HEAD_CHANNELS = 1280


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    variant: int = 0  # 0, 1 or 2
    stages: int = 5  # 1 to 5: scales 1/2 to 1/32; 6: also the 1280-channel head at 1/32, for classifiers


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: the odd row or column is added at the bottom and the right.

    Under autocast on a CPU the strided depthwise ones stay in float32: the gradient of their input takes 4 to 150
    times as long in bfloat16 there (torch 2.15), half of the time of a perceptual loss.
    """

    def forward(self, x: Tensor) -> Tensor:
        pads = [same_padding(size, self.kernel_size[0], self.stride[0]) for size in x.shape[-2:]]
        (top, bottom), (left, right) = pads
        x = F.pad(x, (left, right, top, bottom))
        if self.groups > 1 and self.stride[0] > 1 and x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels that TensorFlow's SAME adds before and after an axis of `size`."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """Expand (1x1) - depthwise - project (1x1, linear); added to its input where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        made = self.project(F.relu6(self.depthwise(hidden)))
        return x + made if self.residual else made


class EfficientNetLite(nn.Module):
    """float [N, 3, H, W] in [-1, 1] -> feature maps float [N, C_i, H / 2^i, W / 2^i], i = 1 ..., finest first.

    Sides that the scale does not divide are rounded up. `channels` gives the C_i. The input normalisation of the
    published weights, (rgb - 127) / 128, is part of the network.
    """

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__()
        width, depth = MULTIPLIERS[config.variant]
        channels = 32
        self.stem = SameConv2d(3, channels, 3, 2)
        self.stages = nn.ModuleList()
        self.channels: list[int] = []
        for groups in STAGES[: config.stages]:
            blocks: list[nn.Module] = []
            for group in groups:
                expansion, base, count, stride, kernel = GROUPS[group]
                outputs = scaled_channels(base, width)
                # the Lite variants do not deepen the first and the last group
                repeats = count if group in (0, len(GROUPS) - 1) else math.ceil(count * depth)
                for index in range(repeats):
                    blocks.append(InvertedResidual(channels, outputs, expansion, 1 if index else stride, kernel))
                    channels = outputs
            self.stages.append(nn.Sequential(*blocks))
            self.channels.append(channels)
        self.head: nn.Conv2d | None = None
        if config.stages > len(STAGES):
            self.head = nn.Conv2d(channels, HEAD_CHANNELS, 1)
            self.channels.append(HEAD_CHANNELS)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem((images * 127.5 + 0.5) / 128))  # from [-1, 1] to (rgb - 127) / 128
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        if self.head is not None:
            maps.append(F.relu6(self.head(x)))
        return maps


def scaled_channels(base: int, width: float) -> int:
    """`base` * `width` rounded to a multiple of 8, never down by more than a tenth."""
    rounded = max(8, int(base * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * base * width else rounded


def feature_distance(made: Sequence[Tensor], clear: Sequence[Tensor]) -> Tensor:
    """Perceptual distance of two pictures from their feature maps [N, C_i, s_i, s_i], one pair a stage: float [N].

    Features are scaled to unit length over channels at every pixel, as in LPIPS (Zhang et al. 2018, without its
    learned weights), so that every stage and every pixel counts alike. 0 for equal pictures, at most 4.
    """
    distances = []
    for ours, theirs in zip(made, clear, strict=True):
        difference = F.normalize(ours.float(), dim=1) - F.normalize(theirs.float(), dim=1)
        distances.append(difference.square().sum(1).mean((1, 2)))
    return torch.stack(distances).mean(0)
