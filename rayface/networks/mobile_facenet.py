"""MobileFaceNet (Chen et al. 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile
Devices"), as a recogniser of aligned crops. Batch norms are folded into the convolutions."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.networks.chips import Chips

SIDE = 112  # of the chips, px
# Where five landmarks lie in them: the usual alignment of networks trained on MS-Celeb-1M, in px.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
EMBEDDING = 192
# (channels in, inside, out, stride) of the inverted residual blocks; a shortcut where nothing changes
BLOCKS = (
    (64, 128, 64, 2), *[(64, 128, 64, 1)] * 4,
    (64, 256, 128, 2), *[(128, 256, 128, 1)] * 6,
    (128, 512, 128, 2), *[(128, 256, 128, 1)] * 2,
)  # fmt: skip


class MobileFaceNet(nn.Module):
    """Crops float [N, 3, S, S] in [-1, 1], aligned to FFHQ_TEMPLATE -> embeddings float [N, 192]; compare by cosine.

    Differentiable, so that it serves as a similarity loss.
    """

    outputs = ("embedding",)

    def __init__(self) -> None:
        super().__init__()
        self.chips = Chips(TEMPLATE / SIDE, SIDE)
        self.stem = nn.Conv2d(3, 64, 3, stride=2)
        self.stem_slope = nn.PReLU(64)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.depthwise_slope = nn.PReLU(64)
        self.first = nn.Conv2d(64, 64, 1)
        self.blocks = nn.Sequential(*(InvertedResidual(*sizes) for sizes in BLOCKS))
        self.last = nn.Conv2d(128, 512, 1)
        self.last_slope = nn.PReLU(512)
        self.whole = nn.Conv2d(512, 512, 7, groups=512)  # "global depthwise": a weight for every place
        self.linear = nn.Conv2d(512, 512, 1)
        self.head = nn.Conv2d(512, EMBEDDING, 1)

    def forward(self, crops: Tensor) -> Tensor:
        x = self.stem_slope(self.stem(_padded(self.chips(crops))))
        x = self.first(self.depthwise_slope(self.depthwise(x)))
        x = self.last_slope(self.last(self.blocks(x)))
        return self.head(self.linear(self.whole(x))).flatten(1)


class InvertedResidual(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]: widened, filtered channel by channel, narrowed."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(inputs, inner, 1)
        self.widen_slope = nn.PReLU(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, padding=0 if stride > 1 else 1, groups=inner)
        self.depthwise_slope = nn.PReLU(inner)
        self.narrow = nn.Conv2d(inner, outputs, 1)
        self.stride, self.shortcut = stride, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = self.widen_slope(self.widen(x))
        wide = self.depthwise_slope(self.depthwise(_padded(wide) if self.stride > 1 else wide))
        narrow: Tensor = self.narrow(wide)
        return x + narrow if self.shortcut else narrow


def _padded(x: Tensor) -> Tensor:
    """TensorFlow's SAME of a 3 x 3 kernel at stride 2 and an even side: one row below, one column on the right."""
    return F.pad(x, (0, 1, 0, 1))
