"""What facial hair is trained by: which style a face has, where its hair is, and what each pixel's loss counts (B3)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.facial_hair_zones import MOUTH, facial_hair_zones
from rayface.imaging.filters import gaussian_blur, resize_images
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


def draw_shadow(random: np.random.Generator) -> Tensor:
    """What `shadowed` does to one face, float [5]: colour (half of them greys), how much it covers, how unevenly."""
    grey = random.uniform(-1.0, 0.0)
    colour = grey + (random.random() < 0.5) * random.uniform(-0.2, 0.2, 3)
    return torch.tensor([*np.broadcast_to(colour, 3), random.uniform(0.0, 0.95), random.random()], dtype=torch.float32)


def shadowed(images: Tensor, hair: Tensor, grain: Tensor, shadows: Tensor) -> Tensor:
    """Faces float [N, 3, S, S] in [-1, 1] with something like hair, as dark blurred: what it hides is to be found.

    `hair` float [N, 2, S, S], `grain` as of `HairPainter`, `shadows` float [N, 5] of `draw_shadow`.
    """
    colour, cover, uneven = shadows[:, :3, None, None], shadows[:, 3:4, None, None], shadows[:, 4:, None, None]
    patches = gaussian_blur(grain[:, :1], images.shape[-1] / 32)
    patches = patches / patches.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    covered = hair.sum(1, keepdim=True) * (cover * (1 + 0.4 * uneven * patches)).clamp(0, 1)
    return images + covered * (colour - images)


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
    face, skin, neck, mouth = (
        torch.isin(masks, torch.tensor([PARSING_ID[name] for name in names], device=masks.device))[:, None].float()
        for names in (FACE, ("skin",), ("neck",), MOUTH)
    )
    return Marked(zones, hair_of(zones, styles), torch.cat([skin, neck, mouth], 1), face)
