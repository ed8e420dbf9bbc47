"""The enhancement model (SPEC C5): convolutional network + linear mapping network -> generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from rayface.networks.blocks import ModulatedBlock, ResidualBlock, Upsample


@dataclass(frozen=True)
class EnhancerConfig:
    widths: tuple[int, ...] = (32, 64, 96, 160, 192)  # channels at 1/2, 1/4, 1/8 ... of the picture's side
    blocks: int = 1  # residual blocks per level, on the way down and on the way up
    style_dim: int = 128

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 8:
            raise ValueError("widths needs two levels or more of at least 8 channels each")


class Encoder(nn.Module):
    """The convolutional network: spatial ("noise") features at every level, finest first.

    `widths` are the levels' channels, at 1/2, 1/4 ... of the picture's side; each has `blocks` residual blocks. The
    picture has `channels`.
    """

    def __init__(self, widths: Sequence[int], blocks: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(nn.Sequential(*[ResidualBlock(width) for _ in range(blocks)]) for width in widths)
        self.downs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(len(widths) - 1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(F.pixel_unshuffle(x, 2))
        features = []
        for index, level in enumerate(self.levels):
            x = level(x)
            features.append(x)
            if index < len(self.downs):
                x = self.downs[index](x)
        return features


class Mapping(nn.Module):
    """The linear mapping network: the deepest features, averaged -> the style ("attribute") vector."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, style_dim), nn.SiLU(), nn.Linear(style_dim, style_dim), nn.SiLU()
        )

    def forward(self, deepest: Tensor) -> Tensor:
        return self.layers(deepest.mean((2, 3)))


class Generator(nn.Module):
    """Makes the picture from spatial features and style; its blocks modulate activations by the style."""

    def __init__(self, config: EnhancerConfig) -> None:
        super().__init__()
        widths = config.widths
        self.levels = nn.ModuleList(
            nn.ModuleList(ModulatedBlock(width, config.style_dim) for _ in range(config.blocks)) for width in widths
        )
        self.ups = nn.ModuleList(Upsample(widths[i + 1], widths[i]) for i in range(len(widths) - 1))
        self.to_rgb = nn.Conv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.to_rgb.weight)  # an untrained enhancer returns its input
        nn.init.zeros_(self.to_rgb.bias)  # type: ignore[arg-type]

    def forward(self, spatial: list[Tensor], style: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = spatial[-1]
        features = []
        for index in reversed(range(len(self.levels))):
            for block in self.levels[index]:  # type: ignore[attr-defined]
                x = block(x, style)
            features.append(x)
            if index > 0:
                x = self.ups[index - 1](x) + spatial[index - 1]
        return F.pixel_shuffle(self.to_rgb(x), 2), features


class Enhancer(nn.Module):
    """Degraded face [N, 3, S, S] in [-1, 1] -> enhanced face, same shape (not clipped).

    S must be divisible by 2 ** len(widths). With `return_features` also the generator's features, coarsest first,
    [N, widths[i], s_i, s_i]: what distillation compares (C6).
    """

    outputs = ("enhanced",)

    def __init__(self, config: EnhancerConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.widths, config.blocks)
        self.mapping = Mapping(config.widths[-1], config.style_dim)
        self.generator = Generator(config)

    def feature_layers(self) -> list[str]:
        """Names of the layers with the output channels of the features that `return_features` gives, in their order."""
        levels = self.generator.levels
        return [f"generator.levels.{i}.{len(levels[i]) - 1}.conv2" for i in reversed(range(len(levels)))]  # type: ignore[arg-type]

    def feature_widths(self) -> list[int]:
        """Channels of those features."""
        return [self.get_submodule(name).out_channels for name in self.feature_layers()]  # type: ignore[misc]

    def forward(self, x: Tensor, return_features: bool = False):
        spatial = self.encoder(x)
        residual, features = self.generator(spatial, self.mapping(spatial[-1]))
        enhanced = x + residual
        return (enhanced, features) if return_features else enhanced
