"""A discriminator of pairs (SPEC E4): is the second picture consistent with the first, and a photo?"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rayface.networks.projected_discriminator import ProjectedDiscriminator, ProjectedDiscriminatorConfig


class PairDiscriminator(nn.Module):
    """D(x, x') on feature maps [N, C_i, s_i, s_i] of both, finest first -> logits [N, stages].

    Without a first picture (None) it judges the second alone: nobody has seen the photo that a swapped face should be.
    """

    def __init__(self, config: ProjectedDiscriminatorConfig, channels: Sequence[int]) -> None:
        super().__init__()
        self.judge = ProjectedDiscriminator(config, [2 * count for count in channels])

    def forward(self, first: Sequence[Tensor] | None, second: Sequence[Tensor]) -> Tensor:
        partners = [torch.zeros_like(maps) for maps in second] if first is None else first
        return self.judge([torch.cat(both, 1) for both in zip(partners, second, strict=True)])
