"""What a network that changes faces must keep, and gain, as frozen networks see it (SPEC A7). Means over samples."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.imaging.filters import gaussian_blur, resize_images
from rayface.records import ATTRIBUTE_ID, PARSING_ID

FACE = ("skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")  # what may change
SKIN = ("skin", "nose")
LIPS = ("u_lip", "l_lip")
UNEVEN = (32, 8)  # parts of the side: the sizes of shadows and spots that may fade, and may not come
LEAST_PART = 1e-3  # of the picture's area; a smaller part is not in it


def parsing_terms(parser: nn.Module, beautified: Tensor, ordinary: Tensor, asked_at: int) -> dict[str, Tensor]:
    """By NetS' masks of pictures [N, 3, S, S]; every part of a face counts as much as another, its lips as its skin.

    parsing: divergence of the masks (constraint 1); change: its size; tone: of the skin's and of the lips' mean
    colour; uneven: light and shade that the skin did not have; outside: what changes outside the face.
    """
    with torch.no_grad():
        wanted = parser(resize_images(ordinary, asked_at)).float().log_softmax(1)
        parts = wanted.exp()
        area = parts.sum((2, 3), keepdim=True)
        present = area >= LEAST_PART * asked_at**2
        pixel = present / area.clamp_min(1) / present.sum(1, keepdim=True)  # what a pixel of each part counts
        skin, lips, face = (
            resize_images(parts[:, [PARSING_ID[name] for name in names]].sum(1, keepdim=True), ordinary.shape[-1])
            for names in (SKIN, LIPS, FACE)
        )
    found = parser(resize_images(beautified, asked_at)).float().log_softmax(1)
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
        "outside": (change * (1 - face)).abs().mean(),
    }


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


def attractive_term(classifier: nn.Module, beautified: Tensor, ordinary: Tensor, wanted: float) -> Tensor:
    """How much is missing, in logits, of what the beautified faces are to gain over their photos; no more is asked.

    Both are seen in the same changed light and blur: a gain that JPEG or a small screen takes away is none.
    """
    with torch.no_grad():
        before = classifier(ordinary).float()[:, ATTRIBUTE_ID["Attractive"]]
    gained = classifier(beautified).float()[:, ATTRIBUTE_ID["Attractive"]] - before
    return F.relu(wanted - gained).mean()


def divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of yes/no probabilities [N, K] from those that are wanted: 0 where alike."""
    cross = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    certain = wanted.clamp(1e-6, 1 - 1e-6)  # by hand: autocast on CUDA refuses binary_cross_entropy
    entropy = -(certain * certain.log() + (1 - certain) * (1 - certain).log())
    return (cross - entropy).mean()
