"""Photos beautified by autoencoders that could not draw them (SPEC A6): by what they change alone."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rayface.imaging.filters import gaussian_blur, grey

DARK = 0.05  # of 1; what is darker hardly changes, or noise would be made visible
FINE = 64  # parts of the side: what a blur of that sigma takes away is fine detail
QUICKLY = 20.0  # or the small mask would learn more slowly than the translator, which then does its work
SOFT = 3.0  # px of sigma, of changes of light: the decoders draw in cells of 8 px, and those show
COLOURFUL = 0.5  # at most a quarter more or less colourful, or lips look painted
GREYISH = 0.05  # of 1; what is greyer has hardly a hue
EDGE = 2.0  # px of sigma, of the border of the face beyond which nothing is changed


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


def beautify(networks: Mapping[str, nn.Module], images: Tensor) -> Tensor:
    """Faces float [N, 3, S, S] in [-1, 1] -> the same, beautified (A6), not clipped.

    Two things are changed, by networks that alone get a gradient. Fine detail, such as lines and pores, which no
    autoencoder draws, stays, goes or is brought out (`detail_mask`). And `NetBd(NetT(NetCe(x)))`, less what it is
    without the translator, is taken softly as a change of light and of saturation, as retouchers dodge and burn: pixels
    keep their hue. Only the face is changed (`face_mask`): what a network is free to win it wins from the background
    too, by blurring it as good cameras do.
    """
    with torch.no_grad():
        face = gaussian_blur(networks["face_mask"](images).float().sigmoid(), EDGE)
        latents = networks["aligner"](networks["ordinary_encoder"](images))
        plain = networks["attractive_decoder"](latents).float()
    made = networks["attractive_decoder"](networks["translator"](latents)).float()
    detail = images.float() - gaussian_blur(images.float(), images.shape[-1] / FINE)
    detail = detail * networks["detail_mask"](images, plain, made)
    light, drawn = (images.float() + 1) / 2, gaussian_blur(made - plain, SOFT)
    lighter = grey(drawn) * (light / grey(light).clamp_min(DARK)).clamp(0, 2)
    colour, change = (images - grey(images) for images in (light, drawn))
    along = (colour * change).sum(1, keepdim=True) / ((colour**2).sum(1, keepdim=True) + GREYISH**2)
    saturated = colour * along.clamp(-COLOURFUL, COLOURFUL)
    return images.float() + face * (lighter + saturated + detail)


class Beautifier(nn.Module):
    """`beautify` as one network, for exported files: faces float [N, 3, S, S] in [-1, 1] -> the same, beautified."""

    outputs = ("beautified",)
    parts = ("ordinary_encoder", "aligner", "translator", "detail_mask", "attractive_decoder", "face_mask")

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: networks[name] for name in self.parts})

    def forward(self, images: Tensor) -> Tensor:
        return beautify(dict(self.networks.items()), images)
