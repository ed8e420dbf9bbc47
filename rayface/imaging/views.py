"""Differentiable changes that leave a face what it is: a discriminator that sees them cannot learn its photos by heart.

(DiffAugment, Zhao et al. 2020.) The draws come with the batch, so that they do not depend on the number of ranks.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayface.imaging.filters import LUMINANCE, gaussian_blur

VIEW_NUMBERS = 13  # six of the matrix, brightness, contrast, saturation, blur, gains of red, green and blue


def draw_view(random: np.random.Generator, move: float = 0.05, colour: float = 0.3, tint: float = 0.1) -> Tensor:
    """What `view` does to one picture, float [VIEW_NUMBERS].

    `move`: standard deviation of turn (radians), log scale and shift (of the half side); `colour`: of the factors of
    brightness, contrast and saturation; `tint`: of the gains of the three channels. Half of the pictures are blurred.
    """
    angle, scale = random.normal(0, move), math.exp(random.normal(0, move))
    shift = random.normal(0, 2 * move, 2)
    mirror = random.choice((-1.0, 1.0))
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    factors = 1 + random.uniform(-colour, colour, 3)
    blur = random.random() if random.random() < 0.5 else 0.0
    gains = 1 + random.uniform(-tint, tint, 3)
    numbers = [mirror * cosine, -sine, shift[0], mirror * sine, cosine, shift[1], *factors, blur, *gains]
    return torch.tensor(numbers, dtype=torch.float32)


def view(images: Tensor, numbers: Tensor) -> Tensor:
    """float [N, 3, S, S] in [-1, 1], each moved, recoloured and blurred by its row of float [N, VIEW_NUMBERS]."""
    images = images.float()
    grid = F.affine_grid(numbers[:, :6].reshape(-1, 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation, blur = (numbers[:, place].view(-1, 1, 1, 1) for place in range(6, 10))
    light = (moved + 1) / 2 * brightness * numbers[:, 10:, None, None]
    mean = light.mean((1, 2, 3), keepdim=True)
    light = mean + (light - mean) * contrast
    grey = (light * light.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
    light = grey + (light - grey) * saturation
    blurred = gaussian_blur(light, images.shape[-1] / 128)  # 2 px of 256
    return (light + (blurred - light) * blur) * 2 - 1
