"""What facial hair is trained by: which style a face has, where its hair is, and what each pixel's loss counts (B3)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.facial_hair_zones import facial_hair_zones
from rayface.imaging.filters import resize_images
from rayface.networks.hair_localiser import Found, hair_of
from rayface.records import ATTRIBUTE_ID, ATTRIBUTES, FACIAL_HAIR, FACIAL_HAIR_LABELS, PARSING_ID, facial_hair_style
from rayface.systems.constraints import FACE

# What NetA should say of FACIAL_HAIR_LABELS; None: the style leaves it open.
TELLS: dict[str, tuple[bool | None, ...]] = {
    "none": (False, False, False, True, False),
    "stubble": (True, False, False, None, False),
    "moustache": (None, False, True, False, False),
    "goatee": (None, True, None, False, False),
    "full": (None, True, None, False, True),
}
SKIN = ("skin", "neck")


def styles_of(attributes: np.ndarray) -> np.ndarray:
    """Class of each face (place in FACIAL_HAIR), int64 [N], by its labels int8 [N, 40]; what is unknown is a no."""
    named = [dict(zip(ATTRIBUTES, (row > 0).tolist(), strict=True)) for row in attributes]
    return np.array([FACIAL_HAIR.index(facial_hair_style(labels)) for labels in named], np.int64)


def area_weights(hair: Tensor, face: Tensor, bound: float) -> Tensor:
    """What each pixel's loss counts (B3): 1, and where facial hair is more, the smaller its area is to the face's.

    `hair` float [N, 2, S, S], `face` float [N, 1, S, S] -> float [N, 1, S, S]: the weight of hair is face area / hair
    area, so that it counts as much as the whole face, at most `bound`. Without facial hair it is 1 everywhere.
    """
    hairy = hair.sum(1, keepdim=True).clamp(0, 1)
    ratio = hairy.sum((2, 3), keepdim=True) / face.sum((2, 3), keepdim=True).clamp_min(1)
    weight = (1 / ratio.clamp_min(1e-6)).clamp(1, bound)
    return 1 + (weight - 1) * hairy * (ratio > 1e-3)


def style_term(logits: Tensor, styles: Tensor) -> Tensor:
    """How far what NetA says, logits [N, 40], is from what tells the styles int64 [N]."""
    asked = [TELLS[FACIAL_HAIR[style]] for style in styles.tolist()]
    wanted = logits.new_tensor([[float(bool(value)) for value in row] for row in asked])
    counts = logits.new_tensor([[float(value is not None) for value in row] for row in asked])
    told = logits[:, [ATTRIBUTE_ID[name] for name in FACIAL_HAIR_LABELS]]
    each = F.binary_cross_entropy_with_logits(told, wanted, reduction="none")
    return ((each * counts).sum(1) / counts.sum(1)).mean()


@dataclass(frozen=True)
class Marked(Found):
    """What the localiser should find in faces, and the whole of each, `face` float [N, 1, S, S]."""

    face: Tensor


@torch.no_grad()
def marked(images: Tensor, styles: Tensor, parser: nn.Module | None, asked_at: int) -> Marked:
    """Of faces float [N, 3, S, S] in [-1, 1] with styles (places in FACIAL_HAIR) int64 [N], by the parser's masks.

    Without a parser everything is skin.
    """
    if parser is None:
        masks = torch.full((len(images), *images.shape[-2:]), PARSING_ID["skin"], device=images.device)
    else:
        masks = resize_images(parser(resize_images(images, asked_at)).float(), images.shape[-1]).argmax(1)
    zones = facial_hair_zones(masks)
    face, skin = (
        torch.isin(masks, torch.tensor([PARSING_ID[name] for name in names], device=masks.device))[:, None].float()
        for names in (FACE, SKIN)
    )
    return Marked(zones, hair_of(zones, styles), skin, face)
