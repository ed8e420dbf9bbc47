"""A discriminator on the features of a frozen image network (Projected GANs, Sauer et al. 2021).

A few hundred photos teach a discriminator of pixels the sensor's noise; one that begins with what ImageNet taught sees
faces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ProjectedDiscriminatorConfig:
    width: int = 64
    first_stage: int = 1  # of the feature maps; finer ones tell noise and compression more than faces


class ProjectedDiscriminator(nn.Module):
    """Feature maps [N, C_i, s_i, s_i], finest first -> logits [N, stages]; positive means of the wanted kind.

    One small head a stage; a stage's logit is the mean over its places.
    """

    def __init__(self, config: ProjectedDiscriminatorConfig, channels: Sequence[int]) -> None:
        super().__init__()
        self.first_stage = config.first_stage
        self.heads = nn.ModuleList(_head(inputs, config.width) for inputs in channels[config.first_stage :])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = features[self.first_stage :]
        logits = [head(stage).mean((1, 2, 3)) for head, stage in zip(self.heads, maps, strict=True)]
        return torch.stack(logits, 1)


def _head(inputs: int, width: int) -> nn.Sequential:
    head = nn.Sequential(
        _Normed(),
        nn.Conv2d(inputs, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, 1, 1),
    )
    for layer in head:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return head


class _Normed(nn.Module):
    """Each picture's features scaled to a root mean square of 1, so that all stages count alike."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.float().square().mean((1, 2, 3), keepdim=True)
        return (x * torch.rsqrt(size + 1e-6)).to(x.dtype)
