"""Label-preserving changes of training crops; every draw comes from the sample's own generator."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayface.imaging.filters import recolour


def mirror_images(images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
    """Mirror each picture [N, 3, S, S] with probability 1/2."""
    return torch.where(_chosen(generators)[:, None, None, None], images.flip(-1), images)


def mirror(
    images: Tensor, masks: Tensor, flipped_ids: Tensor, generators: Sequence[np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """Mirror each picture with probability 1/2; ids [N, S, S] uint8 swap left and right by `flipped_ids`."""
    chosen = _chosen(generators)
    images = torch.where(chosen[:, None, None, None], images.flip(-1), images)
    masks = torch.where(chosen[:, None, None], flipped_ids[masks.flip(-1).long()], masks)
    return images, masks


def move(
    images: Tensor, masks: Tensor, amount: float, generators: Sequence[np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """Shift (by `amount` of the side, standard deviation), turn and scale each crop with its mask; borders repeat."""
    if amount <= 0:
        return images, masks
    matrices = torch.stack([_random_similarity(amount, random) for random in generators])
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    ids = F.grid_sample(masks[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved, ids[:, 0].to(masks.dtype)


def move_images(images: Tensor, amount: float, generators: Sequence[np.random.Generator]) -> Tensor:
    """As `move`, of pictures without masks."""
    return move(images, images.new_zeros(len(images), 1, 1), amount, generators)[0]


def occlude(images: Tensor, probability: float, generators: Sequence[np.random.Generator]) -> Tensor:
    """Hide a rectangle (2 to 25 % of the area) of some pictures [N, 3, S, S] in [-1, 1] behind one random colour."""
    images, side = images.clone(), images.shape[-1]
    for picture, random in zip(images, generators, strict=True):
        chosen, area, aspect = random.random() < probability, random.uniform(0.02, 0.25), random.uniform(-0.5, 0.5)
        x, y, colour = random.random(), random.random(), random.uniform(-1, 1, 3)
        if chosen:
            height, width = (max(1, round(side * math.sqrt(area * math.exp(sign * aspect)))) for sign in (1, -1))
            top, left = round(y * (side - height)), round(x * (side - width))
            hidden = torch.tensor(colour, dtype=images.dtype, device=images.device)
            picture[:, top : top + height, left : left + width] = hidden[:, None, None]
    return images


def jitter_colour(images: Tensor, amount: float, generators: Sequence[np.random.Generator]) -> Tensor:
    """Brightness, contrast and saturation of float [N, 3, S, S] in [-1, 1], each by a factor 1 +- `amount`."""
    if amount <= 0:
        return images
    factors = torch.tensor(
        np.stack([random.uniform(1 - amount, 1 + amount, 3) for random in generators]), dtype=torch.float32
    )
    brightness, contrast, saturation = (factors[:, i].view(-1, 1, 1, 1) for i in range(3))
    light = recolour((images + 1) / 2, brightness, contrast, saturation)
    return (light * 2 - 1).clamp(-1, 1)


def draw_view(random: np.random.Generator, amount: float = 0.05, colour: float = 0.3, tint: float = 0.1) -> Tensor:
    """What `imaging.views.view` does to one picture, float [VIEW_NUMBERS].

    `amount`: as of `move`; `colour`: of the factors of brightness, contrast and saturation; `tint`: of the gains of the
    three channels. Half of the pictures are mirrored, half are blurred.
    """
    matrix = _random_similarity(amount, random)
    matrix[:, 0] *= random.choice((-1.0, 1.0))
    factors = 1 + random.uniform(-colour, colour, 3)
    blur = random.random() if random.random() < 0.5 else 0.0
    gains = 1 + random.uniform(-tint, tint, 3)
    return torch.cat([matrix.flatten(), torch.tensor([*factors, blur, *gains], dtype=torch.float32)])


def _chosen(generators: Sequence[np.random.Generator]) -> Tensor:
    return torch.tensor([random.random() < 0.5 for random in generators])


def _random_similarity(amount: float, random: np.random.Generator) -> Tensor:
    angle = random.normal(0, amount)
    scale = math.exp(random.normal(0, amount))
    shift = random.normal(0, 2 * amount, 2)  # affine_grid's side is 2
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]], dtype=torch.float32)
