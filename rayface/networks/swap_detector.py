"""The swap detector (SPEC E6): was the face in this crop swapped?

Two branches see the face: EfficientNet-Lite features, and high-pass residuals (Fridrich & Kodovsky 2012), in which
blending and resampling leave traces that colours hide. Where they meet, a map says for each cell whether it was put
there; the face's score reads what both found, most of all in the cells that the map marks.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.networks.attribute_classifier import truncate
from rayface.networks.blocks import ChannelNorm, ResidualBlock
from rayface.networks.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig

# What of an aligned crop is looked at, shares of its side: left, top, right, bottom. The rest is hair and background.
MIDDLE = (0.125, 0.1875, 0.875, 0.9375)
RESIDUAL_SCALE = 8.0  # residuals of photos are a few levels of 255
CELL = 16  # pixels to a side of the map's cells


@dataclass(frozen=True)
class SwapDetectorConfig:
    backbone: EfficientNetLiteConfig = field(default_factory=lambda: EfficientNetLiteConfig(stages=4))
    last_blocks: int = 2  # blocks kept of the backbone's last stage
    residual_widths: tuple[int, int, int] = (16, 24, 32)  # of the residual branch at 1/2, 1/4 and 1/8
    width: int = 64  # where both branches meet


class SwapDetector(nn.Module):
    """Aligned crop float [N, 3, S, S] in [-1, 1] -> logits float [N], calibrated: sigmoid gives a probability.

    `with_maps`: also the logits of the map, float [N, 3/4 S / CELL, 3/4 S / CELL], as a pair.
    """

    outputs = ("logits",)
    logit_scale: Tensor
    logit_bias: Tensor

    def __init__(self, config: SwapDetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientNetLite(config.backbone)
        truncate(self.backbone, config.last_blocks)
        for layer in self.backbone.modules():
            if isinstance(layer, nn.Conv2d):  # no norms: activations must keep their size by themselves
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        first, second, third = config.residual_widths
        self.residual = nn.Sequential(
            nn.Conv2d(9, first, 3, 2, 1), ChannelNorm(first), nn.SiLU(),
            nn.Conv2d(first, second, 3, 2, 1), ResidualBlock(second),
            nn.Conv2d(second, third, 3, 2, 1), ResidualBlock(third),
        )  # fmt: skip
        fine, coarse = self.backbone.channels[-2:]
        self.from_fine = nn.Conv2d(fine + third, config.width, 3, 2, 1)
        self.from_coarse = nn.Conv2d(coarse, config.width, 1)
        self.norm = ChannelNorm(config.width)
        self.block = ResidualBlock(config.width)
        self.to_map = nn.Conv2d(config.width, 1, 1)
        self.read_out = nn.Linear(3 * config.width, 1)
        self.register_buffer("logit_scale", torch.ones(()))
        self.register_buffer("logit_bias", torch.zeros(()))

    def forward(self, images: Tensor, with_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        face = middle_part(images)
        features = self.backbone(face)
        traces = self.residual(residuals(face))
        met = self.from_fine(torch.cat([features[-2], traces], 1)) + self.from_coarse(features[-1])
        found = F.silu(self.block(F.silu(self.norm(met)))).float()
        cells = self.to_map(found)
        attention = cells.flatten(2).softmax(2)  # [N, 1, cells]
        marked = (found.flatten(2) * attention).sum(2)
        pooled = torch.cat([found.mean((2, 3)), found.amax((2, 3)), marked], 1)
        logits = self.read_out(pooled)[:, 0].float()
        logits = logits * self.logit_scale + self.logit_bias
        return (logits, cells[:, 0]) if with_maps else logits

    def calibrate(self, scale: float, bias: float) -> None:
        """Map the logits it gives now to `scale * logits + bias`."""
        self.logit_bias.mul_(scale).add_(bias)
        self.logit_scale.mul_(scale)


def middle_part(images: Tensor) -> Tensor:
    """What the detector looks at of pictures [N, C, S, S]: [N, C, 3/4 S, 3/4 S]."""
    left, top, right, bottom = (round(share * images.shape[-1]) for share in MIDDLE)
    return images[..., top:bottom, left:right]


def residuals(images: Tensor) -> Tensor:
    """What each pixel of float [N, 3, H, W] differs from its neighbours' guess of it: float [N, 9, H, W].

    Per channel the second differences across, down, and of both (the kernel KB of the steganalysis literature).
    """
    across, down = torch.tensor([[0, 0, 0], [1, -2, 1], [0, 0, 0]]), torch.tensor([[0, 1, 0], [0, -2, 0], [0, 1, 0]])
    both = torch.tensor([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]])
    images = images.float()
    kernels = torch.stack([across / 2, down / 2, both / 4])[:, None].to(images)
    channels = images.shape[1]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 has no room for them beside the pixels
        found = F.conv2d(padded, kernels.repeat(channels, 1, 1, 1), groups=channels)
    return (RESIDUAL_SCALE * found).clamp(-3, 3)
