"""A generator of faces (SPEC D1, `G-Net`) that a thousand photos can teach, and a first guess at a photo's latents.

A constant is enlarged level by level; at each, a style vector tells what is there (StyleGAN's idea, by modulated
activations). One style for all levels is what random numbers give; one of its own for each ("extended latents", as
in Image2StyleGAN) tells photos apart better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.networks.blocks import ModulatedBlock, Upsample

FIRST_SIDE = 4
GRID = 4  # cells a side to which the first guess averages what it sees
LARGEST_LOG_VARIANCE = 1.0


@dataclass(frozen=True)
class FaceGeneratorConfig:
    widths: tuple[int, ...] = (128, 128, 128, 80, 40, 24)  # channels at 4, 8, 16 ... px
    latent: int = 192  # numbers of the random vector and of a style
    mapping_layers: int = 1

    @property
    def side(self) -> int:
        """Pixels to a side of the picture."""
        return FIRST_SIDE * 2 ** (len(self.widths) - 1)


class FaceGenerator(nn.Module):
    """Latents float [N, latent] -> faces float [N, 3, side, side] in [-1, 1] (not clipped)."""

    outputs = ("faces",)
    middle: Tensor
    spread: Tensor

    def __init__(self, config: FaceGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for _ in range(config.mapping_layers):
            layers += [nn.Linear(config.latent, config.latent), nn.SiLU()]
        self.register_buffer("middle", torch.zeros(config.latent))
        self.register_buffer("spread", torch.eye(config.latent))
        self.mapping = nn.Sequential(*layers, nn.Linear(config.latent, config.latent))
        self.start = nn.Linear(config.latent, config.widths[0] * FIRST_SIDE**2)
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.latent) for width in config.widths[:-1])
        self.ups = nn.ModuleList(
            Upsample(narrow, wide) for narrow, wide in zip(config.widths[:-1], config.widths[1:], strict=True)
        )
        self.to_rgb = nn.ModuleList(
            nn.Conv2d(width, 3, 3 if width == config.widths[-1] else 1, padding="same") for width in config.widths
        )
        for block in self.blocks:  # a style must matter from the first step on
            nn.init.normal_(block.scale.weight, std=config.latent**-0.5)  # type: ignore[union-attr, arg-type]
            nn.init.normal_(block.shift.weight, std=config.latent**-0.5)  # type: ignore[union-attr, arg-type]
        for layer in self.to_rgb:
            nn.init.normal_(layer.weight, std=0.1 * layer.weight[0].numel() ** -0.5)  # type: ignore[arg-type, index]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, latents: Tensor, side: int | None = None) -> Tensor:
        return self.draw(self.styles(latents), side)

    def latents_of(self, random: Tensor) -> Tensor:
        """Latents, spread as photos' are (`fit_latents`), of standard normal vectors float [N, latent]."""
        return self.middle + random @ self.spread.T

    def fit_latents(self, means: Tensor, log_variances: Tensor) -> None:
        """From now on random vectors become latents like those of photos, normal with these, float [N, latent] each.

        The first guesses of all photos together are not quite standard normal, and where no photo lies no face does
        (Ghosh et al. 2020, "ex-post density estimation").
        """
        covariance = torch.cov(means.double().T) + torch.diag(log_variances.double().exp().mean(0))
        values, vectors = torch.linalg.eigh(covariance)
        self.middle.copy_(means.mean(0))
        self.spread.copy_(vectors * values.clamp_min(0).sqrt() @ vectors.T)

    def styles(self, latents: Tensor) -> Tensor:
        """Styles float [N, levels, latent] of latents float [N, latent], the same at every level."""
        mapped = latents + self.mapping(latents).float()  # the vector itself at first: many faces, not one
        return mapped[:, None].expand(-1, len(self.blocks), -1)

    def draw(self, styles: Tensor, side: int | None = None) -> Tensor:
        """Faces of styles float [N, levels, latent]; smaller ones where `side` is a smaller power of two."""
        x = self.start(styles[:, 0]).unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE))
        x = x.contiguous(memory_format=torch.channels_last)
        faces = x.new_zeros(x.shape[0], 3, FIRST_SIDE, FIRST_SIDE, dtype=torch.float32)
        for level, to_rgb in enumerate(self.to_rgb):
            if level:
                x = self.ups[level - 1](x)
                faces = F.interpolate(faces, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.blocks[level](x, styles[:, level]) if level < len(self.blocks) else F.silu(x)
            faces = faces + to_rgb(x).float()
            if x.shape[-1] == side:
                # a data-parallel generator must have gradients of all of itself
                unused = (self.blocks[level + 1 :], self.ups[level:], self.to_rgb[level + 1 :])
                return faces + 0 * sum(p.sum() for part in unused for p in part.parameters())
        return faces


class FirstGuess(nn.Module):
    """Feature maps of photos (an image network's, float [N, C_i, s_i, s_i]) -> latents of a normal distribution.

    Mean and log variance, float [N, latent] each (Kingma and Welling 2014): photos lie where random vectors do.
    """

    def __init__(self, channels: Sequence[int], generator: FaceGeneratorConfig, width: int = 64) -> None:
        super().__init__()
        self.looks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width // 2, 1), nn.SiLU())
            for inputs in channels
        )
        self.hidden = nn.Linear(len(channels) * width // 2 * GRID**2, 384)
        self.to_latents = nn.Linear(384, 2 * generator.latent)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        seen = [
            F.adaptive_avg_pool2d(look(maps), GRID).flatten(1) for look, maps in zip(self.looks, features, strict=True)
        ]
        mean, log_variance = self.to_latents(F.silu(self.hidden(torch.cat(seen, 1)))).float().chunk(2, 1)
        return mean, log_variance.clamp(-8, LARGEST_LOG_VARIANCE)


class Redrawn(nn.Module):
    """Pictures float [N, 3, S, S] -> the same as drawn from the first guess at their latents."""

    outputs = ("faces",)

    def __init__(self, look: nn.Module, first_guess: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.look, self.first_guess, self.generator = look, first_guess, generator

    def forward(self, images: Tensor) -> Tensor:
        return self.generator(self.first_guess(self.look(images)[1:])[0])
