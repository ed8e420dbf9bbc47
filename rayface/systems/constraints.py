"""What a network that changes faces must keep, and gain, as frozen networks see it (SPEC A7). Means over samples."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.imaging.filters import gaussian_blur, resize_images
from rayface.imaging.views import view
from rayface.records import ATTRIBUTE_ID, PARSING_ID

FACE = ("skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")  # what may change
FEATURES = FACE[2:]  # eyes, brows, mouth and lips: small, and what a face is known by
SKIN = ("skin", "nose")
LIPS = ("u_lip", "l_lip")
UNEVEN = (32, 8)  # parts of the side: the sizes of shadows and spots that may fade, and may not come
LEAST_PART = 1e-3  # of the picture's area; a smaller part is not in it


def parsing_terms(
    parser: nn.Module, beautified: Tensor, ordinary: Tensor, asked_at: int, light: Tensor | None = None
) -> dict[str, Tensor]:
    """By NetS' masks of pictures [N, 3, S, S]; every part of a face counts as much as another, its lips as its skin.

    NetS sees both in the `light` and blur of views, float [N, VIEW_NUMBERS] that move nothing: what it then finds
    unchanged, another parser does.

    parsing: divergence of the masks (constraint 1); change: its size; tone: of the skin's and of the lips' mean
    colour; uneven: light and shade that the skin did not have.
    """
    before, after = (ordinary, beautified) if light is None else (view(ordinary, light), view(beautified, light))
    with torch.no_grad():
        wanted = parser(resize_images(before, asked_at)).float().log_softmax(1)
        parts = wanted.exp()
        area = parts.sum((2, 3), keepdim=True)
        present = area >= LEAST_PART * asked_at**2
        pixel = present / area.clamp_min(1) / present.sum(1, keepdim=True)  # what a pixel of each part counts
        skin, lips = (resize_images(share_of(parts, names), ordinary.shape[-1]) for names in (SKIN, LIPS))
    found = parser(resize_images(after, asked_at)).float().log_softmax(1)
    divergences = F.kl_div(found, wanted, log_target=True, reduction="none").sum(1)
    either = (torch.maximum(parts, found.detach().exp()) * pixel).sum(1)  # also what a part grew by
    change = beautified - ordinary
    size = resize_images(change.abs().mean(1, keepdim=True), asked_at)
    return {
        "parsing": (divergences * either).sum((1, 2)).mean(),
        "change": (size * parts * pixel).sum((1, 2, 3)).mean(),
        "tone": sum(
            ((change * part).sum((2, 3)) / part.sum((2, 3)).clamp_min(1)).abs().mean() for part in (skin, lips)
        ),
        "uneven": _uneven(beautified, ordinary, skin),
    }


def share_of(parts: Tensor, names: Sequence[str]) -> Tensor:
    """How likely each pixel is of one of the parts `names`: float [N, 1, S, S] of probabilities [N, 19, S, S]."""
    return parts[:, [PARSING_ID[name] for name in names]].sum(1, keepdim=True)


@torch.no_grad()
def parts_seen(parser: nn.Module, images: Tensor, groups: Sequence[Sequence[str]], asked_at: int, side: int) -> Tensor:
    """How likely each pixel is of one of the parts of each group, as NetS sees pictures [N, 3, S, S]: what small
    networks that say where these are learn. Float [N, groups, side, side] in [0, 1]; NetS is asked at `asked_at` px.
    """
    parts = parser(resize_images(images, asked_at)).float().softmax(1)
    return resize_images(torch.cat([share_of(parts, names) for names in groups], 1), side).clamp(0, 1)


def _uneven(beautified: Tensor, ordinary: Tensor, skin: Tensor) -> Tensor:
    """How much more skin differs from what is around it than it did; less is free. `skin` is [N, 1, S, S] of 0 to 1."""
    more = ordinary.new_zeros(())
    for parts in UNEVEN:
        sigma = ordinary.shape[-1] / parts
        weight = gaussian_blur(skin, sigma).clamp_min(1e-3)
        before, after = (
            (images - gaussian_blur(images * skin, sigma) / weight).abs() for images in (ordinary, beautified)
        )
        more = more + (F.relu(after - before) * skin).sum() / skin.sum().clamp_min(1) / ordinary.shape[1]
    return more


def attractive_term(after: Tensor, before: Tensor, wanted: float) -> Tensor:
    """How much is missing, in logits, of what the beautified faces are to gain over their photos; no more is asked.

    `after`, `before`: what NetA says of them, logits [N, 40].
    """
    place = ATTRIBUTE_ID["Attractive"]
    return F.relu(wanted - (after - before)[:, place]).mean()


def divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of yes/no probabilities [N, K] from those that are wanted: 0 where alike."""
    cross = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    certain = wanted.clamp(1e-6, 1 - 1e-6)  # by hand: autocast on CUDA refuses binary_cross_entropy
    entropy = -(certain * certain.log() + (1 - certain) * (1 - certain).log())
    return (cross - entropy).mean()
