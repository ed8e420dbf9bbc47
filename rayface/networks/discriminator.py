"""A patch discriminator: which parts of the picture look real."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DiscriminatorConfig:
    widths: tuple[int, ...] = (32, 64, 128, 128)  # channels at 1/2, 1/4, 1/8 ... of the side


class Discriminator(nn.Module):
    """[N, 3, S, S] in [-1, 1] -> logits [N, 1, s, s], one per patch; positive means real.

    No norm and no minibatch statistics (they would depend on the per-rank batch); regularised by R1.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = config.widths
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(len(widths) - 1)
        )
        self.body = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.head = nn.Conv2d(widths[-1], 1, 1)
        # torch's default shrinks the signal at every layer, and hundreds of steps pass before it tells anything apart
        for layer in (self.stem, *self.downs, self.body):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(F.pixel_unshuffle(x, 2)))
        for down in self.downs:
            x = F.silu(down(x))
        return self.head(F.silu(self.body(x)))
