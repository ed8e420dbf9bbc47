"""Photos beautified by autoencoders that could not draw them (SPEC A6): by what they change alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.imaging.filters import gaussian_blur, grey

DARK = 0.05  # of 1; what is darker hardly changes, or noise would be made visible
FINE = 64  # parts of the side: what a blur of that sigma takes away is fine detail
QUICKLY = 20.0  # or the small mask would learn more slowly than the translator, which then does its work
SOFT = 5.0  # px of sigma, of changes of light: decoders draw in cells of 8 px; with 3 those showed on foreheads
RETOUCHED = 5.0  # px of sigma, of the fields of the retoucher: with finer ones it made stripes too
COLOURFUL = 0.5  # at most a quarter more or less colourful, or lips look painted
GREYISH = 0.05  # of 1; what is greyer has hardly a hue
EDGE = 2.0  # px of sigma, of the border of the face beyond which nothing is changed
AROUND = 3  # px around eyes, brows, lips and mouth that count as theirs: their outlines are what parsers go by


@dataclass(frozen=True)
class Amounts:
    """How many times each change is made: on the skin, and in the features (eyes, brows, lips and mouth).

    Features are small, and a little change moves their outlines, so they take less, and lose no detail. With `size` all
    of that is made larger or smaller face by face, until the face has changed by so much.
    """

    light: float = 1.0
    saturation: float = 1.0
    detail: float = 1.0
    features_light: float = 0.5
    features_saturation: float = 0.5
    features_detail: float = 0.0
    size: float = 0.0  # of 2, the mean over the face; 0: every face as the networks have it
    retouching: float = 1.0  # times, of what the retoucher adds


ALIKE = Amounts(1, 1, 1, 1, 1, 1, 0)  # features as much as skin
FURTHER = (0.6, 1.8)  # times, at least and at most, that a face's changes are made larger for `size`


class DetailMask(nn.Module):
    """How much of a photo's fine detail stays, goes, or is brought out.

    Photo, its plain and its translated drawing, each [N, 3, S, S] in [-1, 1] -> [N, 1, S, S] in (-1, 1): -1 takes the
    detail away, 1 doubles it. Untrained it gives 0. It sees a window of 17 px.
    """

    outputs = ("mask",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(9, width, 3, padding=1), nn.SiLU())
        for dilation in (2, 4):
            self.layers.extend([nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation), nn.SiLU()])
        self.to_mask = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.zeros_(self.to_mask.weight)
        nn.init.zeros_(self.to_mask.bias)  # type: ignore[arg-type]

    def forward(self, photo: Tensor, plain: Tensor, translated: Tensor) -> Tensor:
        mask = self.to_mask(self.layers(torch.cat([photo, plain, translated], 1)))
        return (QUICKLY * mask.float()).tanh()


def beautify(networks: Mapping[str, nn.Module], images: Tensor, amounts: Amounts = ALIKE) -> Tensor:
    """Faces float [N, 3, S, S] in [-1, 1] -> the same, beautified (A6), not clipped.

    Two things are changed, by networks that alone get a gradient. Fine detail, such as lines and pores, which no
    autoencoder draws, stays, goes or is brought out (`detail_mask`). And `NetBd(NetT(NetCe(x)))`, less what it is
    without the translator, is taken softly as a change of light and of saturation: pixels keep their hue. The
    `retoucher`, where there is one, adds to all three from the latents straight away. Only the face is changed
    (`face_mask`): what a network is free to win it wins from the background too, by blurring it as good cameras do.

    `amounts` are for a `face_mask` with a second channel, which says where the features are; `retouching` is for all.
    """
    with torch.no_grad():
        masks = networks["face_mask"](images).float().sigmoid()
        face = gaussian_blur(masks[:, :1], EDGE)
        latents = networks["aligner"](networks["ordinary_encoder"](images))
        plain = networks["attractive_decoder"](latents).float()
    translated = networks["translator"](latents)
    made = networks["attractive_decoder"](translated).float()
    more_light, more_colour, more_detail = (
        amounts.retouching * field for field in _retouched(networks, latents, translated, images.shape[-1])
    )
    fine = images.float() - gaussian_blur(images.float(), images.shape[-1] / FINE)
    mask = networks["detail_mask"](images, plain, made) + more_detail
    light, drawn = (images.float() + 1) / 2, gaussian_blur(made - plain, SOFT)
    lighter = (grey(drawn) + more_light) * (light / grey(light).clamp_min(DARK)).clamp(0, 2)
    colour, change = (images - grey(images) for images in (light, drawn))
    along = (colour * change).sum(1, keepdim=True) / ((colour**2).sum(1, keepdim=True) + GREYISH**2) + more_colour

    def changed(times: Sequence[Tensor | float]) -> Tensor:
        saturated = colour * COLOURFUL * (times[1] * along / COLOURFUL).tanh()
        return face * (times[0] * lighter + saturated + fine * (times[2] * mask).clamp(-1, 1))

    if masks.shape[1] == 1:
        return images.float() + changed((1.0, 1.0, 1.0))
    times = _times(masks[:, 1:], amounts)
    if amounts.size:
        further = _further(changed(times), face, amounts.size)
        times = [further * each for each in times]
    return images.float() + changed(times)


def _retouched(
    networks: Mapping[str, nn.Module], latents: Tensor, translated: Tensor, side: int
) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
    """The retoucher's light, colourfulness and detail, each [N, 1, side, side]; models of before it have none."""
    if "retoucher" not in networks:
        return 0.0, 0.0, 0.0
    fields = F.interpolate(networks["retoucher"](latents, translated), size=(side, side), mode="bicubic")
    light, colour, detail = gaussian_blur(fields, RETOUCHED).split(1, 1)
    return light, colour, detail


def _times(features: Tensor, amounts: Amounts) -> list[Tensor]:
    """How many times light, saturation and detail change, each [N, 1, S, S], by where features are, as large."""
    near = gaussian_blur(F.max_pool2d(features, 2 * AROUND + 1, 1, AROUND), EDGE)
    pairs = (
        (amounts.light, amounts.features_light),
        (amounts.saturation, amounts.features_saturation),
        (amounts.detail, amounts.features_detail),
    )
    return [skin + (inside - skin) * near for skin, inside in pairs]


def _further(change: Tensor, face: Tensor, size: float) -> Tensor:
    """How much larger a change [N, 3, S, S] is to be, [N, 1, 1, 1], to be of that size in the `face` [N, 1, S, S]."""
    whole = face.sum((1, 2, 3), keepdim=True).clamp_min(1)
    found = (change.abs().mean(1, keepdim=True) * face).sum((1, 2, 3), keepdim=True) / whole
    return (size / found.clamp_min(1e-3)).clamp(*FURTHER)


class Beautifier(nn.Module):
    """`beautify` as one network, for exported files: faces float [N, 3, S, S] in [-1, 1] -> the same, beautified."""

    outputs = ("beautified",)
    parts = ("ordinary_encoder", "aligner", "translator", "retoucher", "detail_mask", "attractive_decoder", "face_mask")

    def __init__(self, networks: Mapping[str, nn.Module], amounts: Amounts = ALIKE) -> None:
        super().__init__()
        self.amounts = amounts
        self.networks = nn.ModuleDict({name: networks[name] for name in self.parts if name in networks})

    def forward(self, images: Tensor) -> Tensor:
        return beautify(dict(self.networks.items()), images, self.amounts)
