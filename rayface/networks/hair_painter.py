"""Facial hair put on and taken off: the lower face is hidden where hair is or is to be, and painted anew.

A network that is shown the photo would copy it. So one sees what is around, and what is hidden only blurred, and paints
skin: any photo teaches it, by what was hidden in it under drawn shadows of hair. Another one lays hair upon that: how
much covers each pixel, how bright it is, and one colour for all of a face's, found in the person's own hair and brows.
Where no hair grew only that layer is taken, so that skin keeps its pores and lines.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.imaging.filters import gaussian_blur
from rayface.networks.enhancer import Encoder, EnhancerConfig, Generator
from rayface.networks.enhancer import Mapping as StyleMapping
from rayface.networks.hair_localiser import KINDS, PARTS, Found, find_hair, hair_of
from rayface.records import FACIAL_HAIR

GROW, GROW_OFF = 10.0, 14.0  # 256ths of the side that hair put on, and what is painted to take it off, reach further
EDGE, EDGE_OFF = 1.5, 2.5  # the same, over the skin's edge
SOFT = 3.0  # the same, of the border between photo and painting
LIKELY = 0.15  # where hair is less likely nothing is painted
NETWORKS = ("localiser", "reader", "skin_painter", "hair_painter")
HINT = 5.0  # 256ths of the side: sigma of the blur in which what is hidden may be seen
COARSE = 32  # side of the pictures by which what is hidden is filled first
COLOUR_SIDE = 32  # of the picture in which the hair's colour is looked for
DARKER = 3.0  # how much more a pixel counts there that is darker by 1 of -1 to 1, as a logarithm
SHADE = 0.3  # most that hairs are brighter or darker than their colour, of -1 to 1


class SkinPainter(nn.Module):
    """Photo [N, 3, S, S] in [-1, 1], what is hidden of it, [N, 1, S, S], and PARTS, [N, 3, S, S] -> with skin there.

    What is not hidden comes back as it was; of what is, only the parts are known (where a chin ends and lips are) and a
    blur too wide for hairs. S must be divisible by 8 * 2 ** len(widths).
    """

    outputs = ("painted",)

    def __init__(self, config: EnhancerConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.widths, config.blocks, 7 + len(PARTS))
        self.mapping = StyleMapping(config.widths[-1], config.style_dim)
        self.generator = Generator(config)

    def forward(self, images: Tensor, hidden: Tensor, parts: Tensor) -> Tensor:
        filled = images * (1 - hidden) + surroundings(images, hidden) * hidden
        hint = gaussian_blur(images, HINT * images.shape[-1] / 256) * hidden
        spatial = self.encoder(lower_face(torch.cat([filled, hidden, hint, parts], 1)))
        painted, _ = self.generator(spatial, self.mapping(spatial[-1]))
        return filled.float() + hidden * in_place(painted.float(), images.shape[-1])


class HairPainter(nn.Module):
    """Bare faces [N, 3, S, S] in [-1, 1], wanted and grain [N, 2, S, S] -> the same faces with hair.

    `wanted`, in [0, 1]: how much dense hair and stubble there is to be; where none is, nothing changes. `grain`: noise
    of unit variance, of which hairs are made. S as of `SkinPainter`.
    """

    outputs = ("painted",)

    def __init__(self, config: EnhancerConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.widths, config.blocks, 3 + 2 * len(KINDS))
        self.mapping = StyleMapping(config.widths[-1], config.style_dim)
        self.generator = Generator(config)
        self.colour = HairColour()

    def forward(self, bare: Tensor, wanted: Tensor, grain: Tensor) -> Tensor:
        spatial = self.encoder(lower_face(torch.cat([bare, wanted, grain * wanted.sum(1, keepdim=True)], 1)))
        style = self.mapping(spatial[-1])
        layer, _ = self.generator(spatial, style)
        covered, shade, _ = in_place(layer.float(), bare.shape[-1]).split(1, 1)
        opaque = (covered - 1).sigmoid() * (2 * wanted.sum(1, keepdim=True)).clamp(0, 1)
        hair = self.colour(bare)[:, :, None, None] + SHADE * shade.tanh()
        return bare.float() + opaque * (hair - bare)


class HairColour(nn.Module):
    """Bare faces [N, 3, S, S] in [-1, 1] -> the colour of their facial hair, float [N, 3]: what they show elsewhere.

    A weighted mean of the photo's own pixels, dark ones first: where to look (brows, hair) is learned, colours are not,
    of which a few hundred beards show too few.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, dilation in ((5, 1), (width, 2), (width, 4)):
            layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.SiLU()]
        self.look = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))
        self.gain = nn.Parameter(torch.ones(1))  # of all three channels: with one each, beards turned green
        self.shift = nn.Parameter(torch.full((1,), -0.2))

    def forward(self, bare: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(bare.float(), COLOUR_SIDE)
        line = torch.linspace(-1, 1, COLOUR_SIDE, device=small.device)
        places = torch.stack([line.expand(COLOUR_SIDE, -1), line[:, None].expand(-1, COLOUR_SIDE)])
        logits = self.look(torch.cat([small, places.expand(small.shape[0], -1, -1, -1)], 1)).float()
        shares = (logits - DARKER * small.mean(1, keepdim=True)).flatten(1).softmax(1)
        return (small.flatten(2) * shares[:, None]).sum(2) * self.gain + self.shift


def lower_face(images: Tensor) -> Tensor:
    """The lower face of aligned crops [N, C, S, S], where all facial hair is: [N, C, 5/8 S, 3/4 S]."""
    top, left = _margins(images.shape[-1])
    return images[..., top:, left : images.shape[-1] - left]


def in_place(lower: Tensor, side: int) -> Tensor:
    """Maps of the lower face within whole crops of `side`, 0 elsewhere."""
    top, left = _margins(side)
    return F.pad(lower, (left, left, top, 0))


def _margins(side: int) -> tuple[int, int]:
    return side * 3 // 8, side // 8


def surroundings(images: Tensor, hidden: Tensor) -> Tensor:
    """Smooth pictures like `images` float [N, 3, S, S], filled from around what is hidden, [N, 1, S, S] of 0 to 1."""
    size = images.shape[-2:]
    seen = 1 - hidden
    colour, weight = (F.adaptive_avg_pool2d(maps, COARSE) for maps in (images * seen, seen))
    near, near_weight = gaussian_blur(colour, 2.0), gaussian_blur(weight, 2.0)
    far, far_weight = gaussian_blur(colour, 6.0), gaussian_blur(weight, 6.0)
    filled = (near + 0.02 * far) / (near_weight + 0.02 * far_weight).clamp_min(1e-4)
    return F.interpolate(filled, size, mode="bilinear", align_corners=False)


def grow(maps: Tensor, pixels: float) -> Tensor:
    """Maps float [N, C, S, S] reaching `pixels` further (a square's half side)."""
    radius = max(1, round(pixels))
    wide = F.max_pool2d(maps, (1, 2 * radius + 1), 1, (0, radius))
    return F.max_pool2d(wide, (2 * radius + 1, 1), 1, (radius, 0))


def laid_on(hair: Tensor, skin: Tensor) -> Tensor:
    """Where hair that is put on, float [N, 2, S, S], may change the photo: float [N, 1, S, S], with a soft border.

    Only on `skin` float [N, 1, S, S]: lips, teeth, clothes and what is behind stay as they are.
    """
    return _around(hair, skin, GROW, EDGE)


def taken_off(hair: Tensor, skin: Tensor) -> Tensor:
    """Where to paint skin for hair to go, as `laid_on`: wider, as no beard keeps to its zones, and over lips' edges."""
    return _around(hair, skin, GROW_OFF, EDGE_OFF)


def _around(hair: Tensor, skin: Tensor, wider: float, edge: float) -> Tensor:
    unit = hair.shape[-1] / 256
    sure = (4 * (hair.sum(1, keepdim=True) - LIKELY)).clamp(0, 1)
    wide = gaussian_blur(grow(sure, wider * unit), SOFT * unit) * grow((3 * skin - 1).clamp(0, 1), edge * unit)
    return in_place(lower_face(wide), hair.shape[-1])


def repaint(networks: Mapping[str, nn.Module], images: Tensor, found: Found, wanted: Tensor, grain: Tensor) -> Tensor:
    """Faces float [N, 3, S, S] in [-1, 1] with the facial hair that is `wanted`, float [N, 2, S, S], and no other (B5).

    Skin is painted where hair grew alone: elsewhere the photo has it. It gets a gradient only where no hair is wanted,
    or it would paint hair.
    """
    bare = networks["skin_painter"](images.float(), taken_off(found.hair, found.skin), found.parts)
    skin = torch.where(wanted.amax((1, 2, 3), keepdim=True) > 0, bare.detach(), bare)
    with_hair = networks["hair_painter"](skin, wanted, grain)
    return skin + (with_hair - skin) * laid_on(wanted, found.skin)


class FacialHairChanger(nn.Module):
    """All of it as one network for one style, for exported files: faces float [N, 3, S, S] in [-1, 1] -> the same."""

    outputs = ("changed",)

    def __init__(self, networks: Mapping[str, nn.Module], style: str, grain: Tensor) -> None:
        """`grain`: float [1, 2, S, S], as of `hair_grain`."""
        super().__init__()
        self.grain: Tensor
        self.style: Tensor
        self.networks = nn.ModuleDict({name: networks[name] for name in NETWORKS})
        self.register_buffer("grain", grain)
        self.register_buffer("style", torch.eye(len(FACIAL_HAIR))[FACIAL_HAIR.index(style)])

    def forward(self, images: Tensor) -> Tensor:
        networks = dict(self.networks.items())
        found = find_hair(networks, images)
        wanted = hair_of(found.zones, self.style.expand(images.shape[0], -1))
        return repaint(networks, images, found, wanted, self.grain.expand(images.shape[0], -1, -1, -1))


def hair_grain(noise: Tensor) -> Tensor:
    """White noise float [N, 2, S, S] -> fine grain and strands that hang down, both of unit variance."""
    fine, strands = noise[:, :1], noise[:, 1:]
    length = max(3, round(9 * noise.shape[-1] / 256))
    strands = F.avg_pool2d(
        F.pad(strands, (0, 0, length // 2, length - 1 - length // 2), mode="circular"), (length, 1), 1
    )
    return torch.cat([fine, strands * length**0.5], 1)
