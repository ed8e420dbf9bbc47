"""The super-resolution network (SPEC F2): plain convolutions at the input's resolution, one light head a scale.

The layout is EDSR's (Lim et al. 2017: residual blocks without norms) at a size for CPUs; as in SRVGGNetCompact
(Real-ESRGAN's small models) the network adds detail to an interpolated picture by pixel shuffle (Shi et al. 2016).
All scales share the body, so x4 costs as much as x2 and not five times that, as x2 applied twice would.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class UpscalerConfig:
    width: int = 32  # channels
    blocks: int = 4  # residual blocks of two convolutions
    scales: tuple[int, ...] = (2, 4)

    def __post_init__(self) -> None:
        if self.width < 8 or self.blocks < 1:
            raise ValueError("width must be at least 8 and blocks at least 1")
        if not self.scales or any(scale < 2 for scale in self.scales):
            raise ValueError("scales needs at least one whole number of 2 or more")


class PlainBlock(nn.Module):
    """conv - leaky ReLU - conv, added to its input: no norm, which would cost more than the convolutions on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        # without norms, deep sums of full-strength branches would start far from the identity
        nn.init.xavier_uniform_(self.conv2.weight, gain=0.1)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.leaky_relu(self.conv1(x), 0.1))


class Upscaler(nn.Module):
    """Picture [N, 3, H, W] in [-1, 1] of any size -> [N, 3, scale * H, scale * W] (not clipped)."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.scales = config.scales
        # output pixels depend on input pixels at most this far away: the convolutions' reach; the cubic kernel's is 2
        self.reach = max(2, 2 + 2 * config.blocks)
        self.stem = nn.Conv2d(3, config.width, 3, padding=1)
        self.body = nn.Sequential(*[PlainBlock(config.width) for _ in range(config.blocks)])
        self.heads = nn.ModuleDict(
            {str(scale): nn.Conv2d(config.width, 3 * scale**2, 3, padding=1) for scale in config.scales}
        )
        for head in self.heads.values():
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]  # an untrained upscaler is the interpolation
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, scale: int | None = None) -> Tensor:
        """`scale`: one of the config's; the first by default."""
        scale = scale or self.scales[0]
        detail = F.pixel_shuffle(self.heads[str(scale)](self.body(self.stem(x))), scale)
        return F.interpolate(x.float(), scale_factor=float(scale), mode="bicubic", align_corners=False) + detail
