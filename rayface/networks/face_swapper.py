"""Face synthesis from the texture of one face and the identity of another (SPEC E1 to E3).

What is drawn is a window around the inner face, by a decoder that gets both: the texture network's features of a small
picture of the window (too small to tell whose face it is: the bottleneck), and what a recognition network says of
somebody. Hair, ears, neck and background are the photo's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.imaging.filters import gaussian_blur, resize_images
from rayface.networks.blocks import ChannelNorm, ModulatedBlock, ResidualBlock, Upsample

NETWORKS = ("texture", "decoder", "face_mask", "recogniser", "centre")
# The window in an aligned crop, as 64ths of its side: brows to chin, cheek to cheek; what dlib's chips show.
LEFT, TOP, SIDE = 10, 17, 44
EDGE = 3.0  # 256ths of the crop's side: sigma of the border between what is drawn and the photo
GAIN = 0.1  # of what is drawn: a step of all 300 weights of a pixel's sum moves it by no more than it should
MASK_SIDE = 128  # px to a side of the crops in which the face is looked for
FADE = 0.09  # of the window's side: over which the drawing fades out at the window's own border


@dataclass(frozen=True)
class FaceSwapperConfig:
    side: int = 128  # px to a side of the window as it is drawn
    texture_side: int = 16  # of the picture of it that the texture network sees; 0: no bottleneck, all of `side`
    widths: tuple[int, ...] = (32, 64, 80, 80)  # channels at 1/2, 1/4, 1/8 ... of `side`
    blocks: int = 2  # of the decoder, at a level; the texture network has one
    identity: int = 128  # numbers that the recognition network gives
    style: int = 128  # numbers that the decoder's blocks are modulated by

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 8:
            raise ValueError("widths needs two levels or more of at least 8 channels each")
        if self.side % 2 ** len(self.widths) or not 0 <= self.texture_side <= self.side:
            raise ValueError(
                f"side={self.side} must be divisible by {2 ** len(self.widths)} ({len(self.widths)} widths), and "
                f"texture_side={self.texture_side} be from 0 to it"
            )

    @property
    def seen(self) -> int:
        """Side of the small picture, px."""
        return self.texture_side or self.side

    @property
    def first_level(self) -> int:
        """The finest level that has texture features: the last that is as fine as the small picture, or finer."""
        fine = [level for level in range(len(self.widths)) if self.side >> level + 1 >= self.seen]
        return fine[-1] if fine else 0


class TextureNetwork(nn.Module):
    """Crops [N, 3, S, S] in [-1, 1] -> the small picture of their window, then its texture features (E1).

    The picture is `seen` px to a side, and all that features know: they are float
    [N, widths[i], s_i, s_i] at 1/2, 1/4 ... of `side`, finest first, from `first_level` on.
    """

    outputs = ("texture",)

    def __init__(self, config: FaceSwapperConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths[config.first_level :]
        # what is larger than the finest level goes in at half its side, in four times the channels
        self.fold = 2 if config.seen > config.side // 2 else 1
        self.stem = nn.Conv2d(3 * self.fold**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))

    def forward(self, crops: Tensor) -> list[Tensor]:
        small = window(crops, self.config.seen)
        shown = resize_images(small, self.fold * self.config.side >> self.config.first_level + 1)
        x, features = self.stem(F.pixel_unshuffle(shown, self.fold)), [small]
        for index, level in enumerate(self.levels):
            x = level(x)
            features.append(x)
            if index < len(self.downs):
                x = self.downs[index](x)
        return features


class SwapDecoder(nn.Module):
    """What the texture network gives and an identity float [N, identity] -> window [N, 3, side, side] (E3).

    Untrained it gives the small picture, enlarged.
    """

    outputs = ("window",)

    def __init__(self, config: FaceSwapperConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.mapping = nn.Sequential(
            nn.Linear(config.identity, config.style), nn.SiLU(), nn.Linear(config.style, config.style), nn.SiLU()
        )
        self.levels = nn.ModuleList(
            nn.ModuleList(ModulatedBlock(width, config.style) for _ in range(config.blocks)) for width in widths
        )
        self.ups = nn.ModuleList(Upsample(widths[i + 1], widths[i]) for i in range(len(widths) - 1))
        self.norm = ChannelNorm(widths[0])
        self.to_rgb = nn.Conv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.to_rgb.weight)
        nn.init.zeros_(self.to_rgb.bias)  # type: ignore[arg-type]
        for levels in self.levels:  # who it is must matter from the first step on
            for block in levels:  # type: ignore[attr-defined]
                nn.init.normal_(block.scale.weight, std=0.5 * config.style**-0.5)
                nn.init.normal_(block.shift.weight, std=0.5 * config.style**-0.5)

    def forward(self, texture: list[Tensor], identity: Tensor) -> Tensor:
        small, *features = texture
        # unit length would be numbers of 0.09; of unit variance they are what layers are made for
        style = self.mapping(F.normalize(identity.float(), dim=1) * self.config.identity**0.5)
        first, x = self.config.first_level, features[-1]
        for index in reversed(range(len(self.levels))):
            for block in self.levels[index]:  # type: ignore[attr-defined]
                x = block(x, style)
            if index > 0:
                x = self.ups[index - 1](x)
                if index - 1 >= first:
                    x = x + features[index - 1 - first]
        drawn = GAIN * F.pixel_shuffle(self.to_rgb(self.norm(x)), 2).float()
        base = F.interpolate(small.float(), drawn.shape[-2:], mode="bicubic", align_corners=False)
        return base + drawn


class Centre(nn.Module):
    """What a recogniser says, float [N, identity] -> how that differs from what it says on average, of unit length.

    All faces have most of it in common; the rest tells who somebody is.
    """

    outputs = ("identity",)
    middle: Tensor

    def __init__(self, identity: int) -> None:
        super().__init__()
        self.register_buffer("middle", torch.zeros(identity))

    def forward(self, embeddings: Tensor) -> Tensor:
        return F.normalize(embeddings.float() - self.middle, dim=1)


def window(crops: Tensor, side: int) -> Tensor:
    """The window of aligned crops [N, C, S, S] at `side` px: [N, C, side, side]. S must be divisible by 64."""
    left, top, span = (part * crops.shape[-1] // 64 for part in (LEFT, TOP, SIDE))
    return resize_images(crops[..., top : top + span, left : left + span], side)


def in_window(drawn: Tensor, size: int) -> Tensor:
    """Windows [N, C, s, s] at their place in crops of `size` px, 0 elsewhere."""
    left, top, span = (part * size // 64 for part in (LEFT, TOP, SIDE))
    placed = (
        F.interpolate(drawn, (span, span), mode="bicubic", align_corners=False) if drawn.shape[-1] != span else drawn
    )
    return F.pad(placed, (left, size - left - span, top, size - top - span))


def identities(networks: Mapping[str, nn.Module], crops: Tensor) -> Tensor:
    """Who is seen in aligned crops [N, 3, S, S] in [-1, 1], float [N, identity] of unit length (E2); differentiable."""
    return networks["centre"](networks["recogniser"](crops))


def given_identity(networks: Mapping[str, nn.Module], crops: Tensor, donors: Tensor, away: float) -> Tensor:
    """Whose faces crops [N, 3, S, S] get of donors' crops [N, 3, D, D]: float [N, identity] of unit length.

    The donors', less `away` times the photos' own, which makes up for what the texture still tells of them.
    """
    identity = identities(networks, donors)
    return F.normalize(identity - away * identities(networks, crops), dim=1) if away else identity


def where_drawn(networks: Mapping[str, nn.Module], crops: Tensor) -> Tensor:
    """How much of each pixel is drawn anew: float [N, 1, S, S] in [0, 1], the face within the window."""
    size = crops.shape[-1]
    with torch.no_grad():
        face = networks["face_mask"](resize_images(crops, MASK_SIDE)).float().sigmoid()
        soft = resize_images(gaussian_blur(face, EDGE * MASK_SIDE / 256), size)
        return soft * in_window(_fading(SIDE * size // 64, crops), size)


def _fading(span: int, like: Tensor) -> Tensor:
    ramp = (torch.arange(span, device=like.device, dtype=torch.float32) + 0.5) / (FADE * span)
    ramp = torch.minimum(ramp, ramp.flip(0)).clamp(0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return (ramp[:, None] * ramp[None])[None, None]


def draw(networks: Mapping[str, nn.Module], crops: Tensor, identity: Tensor) -> Tensor:
    """The windows of crops [N, 3, S, S] with the faces of `identity` float [N, identity]: float [N, 3, side, side]."""
    return networks["decoder"](networks["texture"](crops), identity)


def swap(networks: Mapping[str, nn.Module], crops: Tensor, identity: Tensor) -> Tensor:
    """Crops float [N, 3, S, S] in [-1, 1] with the faces of `identity` float [N, identity], not clipped."""
    return composed(crops, draw(networks, crops, identity), where_drawn(networks, crops))


def composed(crops: Tensor, drawn: Tensor, where: Tensor) -> Tensor:
    """Crops with windows [N, 3, s, s] drawn `where`, float [N, 1, S, S]."""
    return crops.float() + where * (in_window(drawn, crops.shape[-1]) - crops.float())


class FaceSwapper(nn.Module):
    """`swap` as one network: crops above their donors' crops, float [N, 6, S, S] in [-1, 1].

    Of crops alone, [N, 3, S, S], the same faces, made again of their own texture and identity.
    """

    outputs = ("swapped",)

    def __init__(self, networks: Mapping[str, nn.Module], away: float = 0.0) -> None:
        """`away`: see `given_identity`."""
        super().__init__()
        self.away = away
        self.networks = nn.ModuleDict({name: networks[name] for name in NETWORKS})

    def forward(self, pictures: Tensor) -> Tensor:
        networks = dict(self.networks.items())
        crops, donors = pictures[:, :3], pictures[:, -3:]
        return swap(networks, crops, given_identity(networks, crops, donors, self.away))
