"""Building blocks shared by the networks: no batch statistics, no grouped or modulated-weight convolutions.

Batch norm would make a step depend on how the batch is spread over ranks, and weight-modulated convolutions
(StyleGAN2) cannot be pruned by dependency graphs; activations are modulated instead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Root-mean-square norm over channels at every pixel, with a learned gain per channel.

    [N, C, H, W] -> the same. Independent of the batch, of the picture's size and of channel order, so channels can
    be removed. (PixelNorm of Karras et al. 2018 with a gain.)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # one fused pass in float32: written as x.float().square().mean(1) it costs three times as much on a CPU
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(length.square() / x.shape[1] + 1e-6).to(x.dtype)
        return x * scale * self.weight.to(x.dtype).view(1, -1, 1, 1)


class ResidualBlock(nn.Module):
    """conv - norm - SiLU - conv, added to its input. `hidden` is the width between the two convolutions."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.norm = ChannelNorm(hidden)
        self.conv2 = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm(self.conv1(x))))


class ModulatedBlock(nn.Module):
    """A residual block whose input channels are scaled and hidden channels shifted by a style vector.

    Activations are modulated (scale -> plain convolution -> norm) instead of weights: the same idea as StyleGAN2's
    modulation, prunable and exportable.
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.scale = nn.Linear(style_dim, channels)
        self.shift = nn.Linear(style_dim, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = ChannelNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for affine in (self.scale, self.shift):
            nn.init.normal_(affine.weight, std=0.02)
            nn.init.zeros_(affine.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale = (1 + self.scale(style)).unsqueeze(-1).unsqueeze(-1)
        shift = self.shift(style).unsqueeze(-1).unsqueeze(-1)
        hidden = self.norm(self.conv1(x * scale)) + shift
        return x + self.conv2(F.silu(hidden))


class Upsample(nn.Module):
    """Nearest 2x enlargement followed by a 3x3 convolution: no checkerboard, cheap on CPU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # convolving at the low resolution first costs a quarter and differs only in smoothing
        return F.interpolate(self.conv(x), scale_factor=2.0, mode="nearest")
