"""The three networks of the face detection cascade.

K. Zhang, Z. Zhang, Z. Li, Y. Qiao, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks", IEEE Signal Processing Letters 2016. All take float [N, 3, H, W] in [-1, 1] and give, for each window:

- `logit`: of being a face (the papers' two-class softmax is the sigmoid of one difference);
- `offsets`: 4 shifts of the window's x0, y0, x1, y1, in window sides;
- `landmarks` (output network only): 10 numbers, five x then five y, in window sides from its top left corner.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class MtcnnConfig:
    """Channel widths; the defaults are the paper's."""

    proposal: tuple[int, ...] = (10, 16, 32)
    refinement: tuple[int, ...] = (28, 48, 64, 128)
    output: tuple[int, ...] = (32, 64, 64, 128, 256)


def _convolution(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel), nn.PReLU(outputs)]


class ProposalNet(nn.Module):
    """PNet: a fully convolutional net that scores every 12-px window of a picture, two pixels apart.

    [N, 3, H, W] -> logit [N, h, w], offsets [N, 4, h, w]; window (x, y) has its top left pixel at (2x, 2y).
    """

    window: ClassVar[int] = 12
    stride: ClassVar[int] = 2

    def __init__(self, widths: tuple[int, ...] = MtcnnConfig.proposal) -> None:
        super().__init__()
        a, b, c = widths
        self.features = nn.Sequential(
            *_convolution(3, a, 3),
            nn.MaxPool2d(2, ceil_mode=True),
            *_convolution(a, b, 3),
            *_convolution(b, c, 3),
        )
        self.face = nn.Conv2d(c, 1, 1)
        self.offsets = nn.Conv2d(c, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.face(features)[:, 0], self.offsets(features)


class RefinementNet(nn.Module):
    """RNet: scores and corrects candidate windows. [N, 3, 24, 24] -> logit [N], offsets [N, 4]."""

    window: ClassVar[int] = 24

    def __init__(self, widths: tuple[int, ...] = MtcnnConfig.refinement) -> None:
        super().__init__()
        a, b, c, d = widths
        self.features = nn.Sequential(
            *_convolution(3, a, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_convolution(a, b, 3),
            nn.MaxPool2d(3, 2),
            *_convolution(b, c, 2),
            nn.Flatten(),
            nn.Linear(c * 3 * 3, d),
            nn.PReLU(d),
        )
        self.face = nn.Linear(d, 1)
        self.offsets = nn.Linear(d, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.face(features)[:, 0], self.offsets(features)


class OutputNet(nn.Module):
    """ONet: the last judgement and the landmarks.

    [N, 3, 48, 48] -> logit [N], offsets [N, 4], landmarks [N, 10].
    """

    window: ClassVar[int] = 48

    def __init__(self, widths: tuple[int, ...] = MtcnnConfig.output) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.features = nn.Sequential(
            *_convolution(3, a, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_convolution(a, b, 3),
            nn.MaxPool2d(3, 2),
            *_convolution(b, c, 3),
            nn.MaxPool2d(2, ceil_mode=True),
            *_convolution(c, d, 2),
            nn.Flatten(),
            nn.Linear(d * 3 * 3, e),
            nn.PReLU(e),
        )
        self.face = nn.Linear(e, 1)
        self.offsets = nn.Linear(e, 4)
        self.landmarks = nn.Linear(e, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(x)
        return self.face(features)[:, 0], self.offsets(features), self.landmarks(features)


class Mtcnn(nn.Module):
    """The three networks together, so that one state dict and one `.to(device)` serve the cascade."""

    def __init__(self, config: MtcnnConfig | None = None) -> None:
        super().__init__()
        config = config or MtcnnConfig()
        self.config = config
        self.proposal = ProposalNet(config.proposal)
        self.refinement = RefinementNet(config.refinement)
        self.output = OutputNet(config.output)
