"""The face parser (SPEC A2, `NetS`): a U-shaped network over residual blocks."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from rayface.networks.blocks import ResidualBlock, Upsample
from rayface.records import PARSING_CLASSES


@dataclass(frozen=True)
class ParserConfig:
    widths: tuple[int, ...] = (24, 48, 96, 128, 160)  # channels at 1/2, 1/4, 1/8 ... of the side
    blocks: int = 1
    classes: int = 19


class Parser(nn.Module):
    """Face crop [N, 3, S, S] in [-1, 1] -> logits [N, classes, S, S] (float). S divisible by 2 ** len(widths)."""

    outputs = ("logits",)
    labels = PARSING_CLASSES  # of the logits' channels

    def __init__(self, config: ParserConfig) -> None:
        super().__init__()
        widths = config.widths

        def level(width: int) -> nn.Sequential:
            return nn.Sequential(*[ResidualBlock(width) for _ in range(config.blocks)])

        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.down_levels = nn.ModuleList(level(width) for width in widths)
        self.downs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(len(widths) - 1)
        )
        self.context = nn.Conv2d(widths[-1], widths[-1], 1)
        self.ups = nn.ModuleList(Upsample(widths[i + 1], widths[i]) for i in range(len(widths) - 1))
        self.up_levels = nn.ModuleList(level(width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(x, 2))
        skips = []
        for index, level in enumerate(self.down_levels):
            x = level(x)
            skips.append(x)
            if index < len(self.downs):
                x = self.downs[index](x)
        x = x + self.context(x.mean((2, 3), keepdim=True))  # what kind of face this is, at every pixel
        for index in reversed(range(len(self.ups))):
            x = self.up_levels[index](self.ups[index](x) + skips[index])
        return F.interpolate(self.head(x).float(), scale_factor=2.0, mode="bilinear", align_corners=False)
