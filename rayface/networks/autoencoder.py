"""Autoencoders of faces with spatial latents (SPEC A3, A4: `NetCe`/`NetCd`, `NetBe`/`NetBd`) and what translates
between their latent spaces (A5: `NetT`).

A latent vector would blur a face to what a few hundred training photos have in common; a map of latents, an eighth of
the picture's side, keeps where everything is.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.networks.blocks import ModulatedBlock, ResidualBlock, Upsample
from rayface.networks.enhancer import Encoder, Mapping


@dataclass(frozen=True)
class AutoencoderConfig:
    widths: tuple[int, ...] = (24, 48, 96)  # channels at 1/2, 1/4, 1/8 ... of the picture's side
    blocks: int = 1  # residual blocks per level, on the way down and on the way up
    latent_channels: int = 32

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 8:
            raise ValueError("widths needs two levels or more of at least 8 channels each")


@dataclass(frozen=True)
class TranslatorConfig:
    width: int = 96
    blocks: int = 4
    style_dim: int = 96
    detail_width: int = 16  # channels of DetailMask
    retouch_width: int = 64  # of Retoucher
    retouch_blocks: int = 3


class FaceEncoder(nn.Module):
    """Face [N, 3, S, S] in [-1, 1] -> latents [N, latent_channels, s, s], s = S / 2 ** len(widths)."""

    outputs = ("latents",)

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.features = Encoder(config.widths, config.blocks)
        self.to_latents = nn.Conv2d(config.widths[-1], config.latent_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.to_latents(self.features(images)[-1])


class FaceDecoder(nn.Module):
    """Latents [N, latent_channels, s, s] -> face [N, 3, S, S], in [-1, 1] but not clipped."""

    outputs = ("image",)

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.from_latents = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.levels = nn.ModuleList(
            nn.Sequential(*[ResidualBlock(width) for _ in range(config.blocks)]) for width in widths
        )
        self.ups = nn.ModuleList(Upsample(widths[i + 1], widths[i]) for i in range(len(widths) - 1))
        self.to_rgb = nn.Conv2d(widths[0], 12, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.from_latents(latents)
        for index in reversed(range(len(self.levels))):
            x = self.levels[index](x)
            if index > 0:
                x = self.ups[index - 1](x)
        return F.pixel_shuffle(self.to_rgb(x), 2)


class _WholeFace(nn.Module):
    """Convolutional features of a map of latents, modulated by a vector of the whole face, so that what is done on the
    left cheek is done on the right one: [N, inputs, s, s] -> [N, width, s, s]."""

    def __init__(self, inputs: int, width: int, blocks: int, style_dim: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, width, 3, padding=1)
        self.mapping = Mapping(width, style_dim)
        self.blocks = nn.ModuleList(ModulatedBlock(width, style_dim) for _ in range(blocks))

    def features(self, latents: Tensor) -> Tensor:
        x: Tensor = self.stem(latents)
        style = self.mapping(x)
        for block in self.blocks:
            x = block(x, style)
        return x


class Translator(_WholeFace):
    """Latents of one autoencoder -> latents of the other, both [N, latent_channels, s, s].

    A residual network; untrained it returns its input.
    """

    outputs = ("latents",)

    def __init__(self, config: TranslatorConfig, latent_channels: int) -> None:
        super().__init__(latent_channels, config.width, config.blocks, config.style_dim)
        self.to_latents = _starting_at_zero(config.width, latent_channels)

    def forward(self, latents: Tensor) -> Tensor:
        return latents + self.to_latents(self.features(latents))


class Retoucher(_WholeFace):
    """Where a face is to become lighter or darker, more or less colourful, finer or smoother, as retouchers dodge and
    burn.

    A face's latents before and after the translator, each [N, latent_channels, s, s] -> [N, 3, s, s]: what is added
    to the light (of 2), to the colourfulness (1 for a half more, softly at most a quarter) and to the detail mask.
    Untrained it gives 0.
    """

    outputs = ("fields",)

    def __init__(self, config: TranslatorConfig, latent_channels: int) -> None:
        super().__init__(2 * latent_channels, config.retouch_width, config.retouch_blocks, config.style_dim)
        self.to_fields = _starting_at_zero(config.retouch_width, 3)

    def forward(self, latents: Tensor, translated: Tensor) -> Tensor:
        return self.to_fields(self.features(torch.cat([latents, translated], 1))).float()


def _starting_at_zero(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
