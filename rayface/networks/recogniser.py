"""The face recogniser (SPEC E2, E5): a plain residual network in the layout of dlib's face recognition ResNet.

D. King, "dlib_face_recognition_resnet_model_v1", 2017: a ResNet of 29 convolutions (after He et al. 2016) whose
shortcuts are parameter-free: averaged down and padded with zero channels where a block narrows the picture. Batch
norms are folded into the convolutions, so there are no batch statistics, and nothing but plain convolutions and one
linear layer, which pruning can follow. The inner convolution of a block may have a width of its own.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.networks.chips import Chips

# Where our five landmarks lie in dlib's chips (150 px, padding 0.25), as a fraction of the side: means over the 662
# train-split CelebA photos in which dlib finds the face. Made by `python benchmarks/dlib_template.py PHOTOS`.
CHIP_TEMPLATE = np.array(
    [[0.31201, 0.2955], [0.67063, 0.29482], [0.48474, 0.51867], [0.33069, 0.67302], [0.65386, 0.67408]],
    np.float32,
)
# The mean colour dlib subtracts, in levels of 255; it then divides by 256.
MEAN_COLOUR = (122.782, 117.001, 104.298)


@dataclass(frozen=True)
class RecogniserConfig:
    """The defaults are dlib's network. Raises RayfaceError naming a value that cannot be used."""

    side: int = 150  # of the face chip the network looks at, px
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)  # channels of each level
    hidden: tuple[int, ...] = (32, 64, 128, 256, 256)  # channels between the two convolutions of a block
    blocks: tuple[int, ...] = (3, 4, 3, 3, 1)  # residual blocks of each level
    embedding: int = 128

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.hidden) == len(self.blocks) >= 1:
            raise RayfaceError(
                f"recogniser: widths={self.widths}, hidden={self.hidden} and blocks={self.blocks} must have one value "
                "per level each"
            )
        if min(*self.widths, *self.hidden, *self.blocks, self.embedding) < 1:
            raise RayfaceError("recogniser: widths, hidden, blocks and embedding must be at least 1")
        left = ((self.side - 7) // 2 - 2) // 2 + 1  # after the stem and the pooling
        if left >> (len(self.widths) - 2 if len(self.widths) > 1 else 0) < 3:
            raise RayfaceError(f"recogniser: side={self.side} is too small for {len(self.widths)} levels")


def _padded_sum(x: Tensor, y: Tensor) -> Tensor:
    """x + y, [N, C, H, W] each, the smaller one padded with zeros on the right, below and in channels."""
    size = [max(a, b) for a, b in zip(x.shape[1:], y.shape[1:], strict=True)]
    padded = []
    for part in (x, y):
        missing = [wanted - held for wanted, held in zip(size, part.shape[1:], strict=True)]
        padded.append(F.pad(part, (0, missing[2], 0, missing[1], 0, missing[0])) if any(missing) else part)
    return padded[0] + padded[1]


class RecogniserBlock(nn.Module):
    """Two convolutions and a shortcut; with `down` at half the side, [N, C, H, W] -> [N, width, h, w]."""

    def __init__(self, inputs: int, hidden: int, width: int, down: bool) -> None:
        super().__init__()
        self.down = down
        stride, padding = (2, 0) if down else (1, 1)
        self.conv1 = nn.Conv2d(inputs, hidden, 3, stride, padding)
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1)
        # every block starts as its shortcut: deep networks without norms train from there (Zhang et al., "Fixup", 2019)
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv1.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.conv2.weight, std=0.1 * (2 / (9 * hidden)) ** 0.5)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.avg_pool2d(x, 2) if self.down else x
        return F.relu(_padded_sum(self.conv2(F.relu(self.conv1(x))), shortcut))


class Recogniser(nn.Module):
    """Face crop -> embedding; compare two by their cosine (dlib's own are also compared by distance, 0.6 apart)."""

    outputs = ("embedding",)
    mean_colour: Tensor

    def __init__(self, config: RecogniserConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(3, config.widths[0], 7, stride=2)
        blocks, inputs = [], config.widths[0]
        for level, (width, hidden, count) in enumerate(zip(config.widths, config.hidden, config.blocks, strict=True)):
            for index in range(count):
                blocks.append(RecogniserBlock(inputs, hidden, width, down=level > 0 and index == 0))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, config.embedding, bias=False)
        # A constant, not a weight: it is no part of a stored model.
        self.register_buffer("mean_colour", torch.tensor(MEAN_COLOUR).view(1, 3, 1, 1), persistent=False)
        self.chips = Chips(CHIP_TEMPLATE, config.side)  # the network's own view of aligned crops

    def forward(self, crops: Tensor) -> Tensor:
        """Float [N, 3, S, S] in [-1, 1], aligned to FFHQ_TEMPLATE, any S -> embeddings float [N, D], not normalised.

        Differentiable, so that it serves as a similarity loss.
        """
        return self.embed_chips(self.chips(crops))

    def embed_chips(self, chips: Tensor) -> Tensor:
        """Float [N, 3, side, side] in [-1, 1], dlib's own kind of chip -> embeddings float [N, D]."""
        return self.head(self.blocks(self.after_stem(chips)).mean((2, 3)))

    def after_stem(self, chips: Tensor) -> Tensor:
        """What the first block sees: float [N, 3, side, side] -> [N, widths[0], h, w]."""
        levels = ((chips + 1) * 127.5 - self.mean_colour) / 256
        return F.max_pool2d(F.relu(self.stem(levels)), 3, stride=2)


@torch.no_grad()
def narrowed(network: Recogniser, config: RecogniserConfig, crops: Tensor) -> Recogniser:
    """`network` with `config.hidden` channels inside its blocks: those that matter most on `crops` [N, 3, S, S].

    A channel matters by its mean square activation times the squares of the weights that read it. What the lost ones
    give on average goes into the bias. Raises RayfaceError where anything else than `hidden` differs, or a block grows.
    """
    wide = network.config
    fits = all(narrow <= held for narrow, held in zip(config.hidden, wide.hidden, strict=False))
    if not fits or replace(config, hidden=wide.hidden) != wide:
        raise RayfaceError(f"recogniser: {config} is not {wide} with fewer hidden channels")
    narrow = Recogniser(config)
    narrow.stem.load_state_dict(network.stem.state_dict())
    narrow.head.load_state_dict(network.head.state_dict())
    x = network.after_stem(network.chips(crops))
    for ours, theirs in zip(narrow.blocks, network.blocks, strict=True):
        assert isinstance(ours, RecogniserBlock)
        assert isinstance(theirs, RecogniserBlock)
        inner, reader = F.relu(theirs.conv1(x)), theirs.conv2.weight
        importance = inner.square().mean((0, 2, 3)) * reader.square().sum((0, 2, 3))
        kept = importance.topk(ours.conv1.out_channels).indices.sort().values
        ours.conv1.weight.copy_(theirs.conv1.weight[kept])
        ours.conv1.bias.copy_(theirs.conv1.bias[kept])  # type: ignore[union-attr, index]
        ours.conv2.weight.copy_(reader[:, kept])
        lost = inner.mean((0, 2, 3)).index_fill(0, kept, 0)
        ours.conv2.bias.copy_(theirs.conv2.bias + reader.sum((2, 3)) @ lost)  # type: ignore[union-attr, operator]
        x = theirs(x)
    return narrow
