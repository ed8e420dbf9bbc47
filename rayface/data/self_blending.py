"""Self-blended faces: a photo blended with its own slightly changed copy inside a random part of the face.

What a swap leaves behind whatever made it (an edge of blending, other colours, other sharpness, features that do not
quite fit), without any swap method (Shiona & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022).
Every draw comes from the sample's own generator.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayface.data.degradation import jpeg
from rayface.imaging.blended_swap import face_distance
from rayface.imaging.filters import gaussian_blur, recolour

RATIOS = (0.5, 0.75, 1.0, 1.0, 1.0, 1.0)  # how much of the copy is seen; the paper begins at 0.25
REFERENCE = 256  # lengths in pixels are for crops of this side


def self_blend(images: Tensor, landmarks: Tensor, generators: Sequence[np.random.Generator]) -> tuple[Tensor, Tensor]:
    """Blended pictures float [N, 3, S, S] in [-1, 1], and how much of each pixel is the copy's: float [N, S, S].

    `images`: float [N, 3, S, S] in [-1, 1]; `landmarks`: float [N, 5, 2] in pixels.
    """
    pairs = [
        _blended(image, points, random) for image, points, random in zip(images, landmarks, generators, strict=True)
    ]
    return torch.stack([picture for picture, _ in pairs]), torch.stack([mask for _, mask in pairs])


def _blended(image: Tensor, landmarks: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    around, inside = image[None], image[None]
    if random.random() < 0.8:  # never all around: strange colours of a whole photo are no sign of a swap
        inside = _recoloured(inside, random)
    if random.random() < 0.7:
        inside = _softened(inside, random)
    elif random.random() < 0.5:
        around = _softened(around, random)
    inside = _moved(inside, random)
    mask = face_part(landmarks, image.shape[-1], random)[None, None]
    if random.random() < 0.5:  # methods that match colours leave no mean difference
        inside = inside + ((around - inside) * mask).sum((2, 3), keepdim=True) / mask.sum().clamp_min(1)
    mixed = around + mask * (inside - around)
    return mixed[0].clamp(-1, 1), mask[0, 0]


def face_part(landmarks: Tensor, side: int, random: np.random.Generator) -> Tensor:
    """A soft mask float [S, S] in [0, 1] of a face or of part of it, with a crooked edge. Landmarks float [5, 2]."""
    distance = face_distance(landmarks[None], side)
    wobble = _noise(side, int(random.integers(3, 9)), random)[:1]
    mask = (distance + random.uniform(0.05, 0.25) * wobble < random.uniform(0.7, 1.1)).float()
    kind = random.random()
    if kind < 0.3:  # cut off above or below a line through the face
        middle = landmarks.double().mean(0)
        angle, offset = random.uniform(-0.5, 0.5), random.uniform(-0.12, 0.12) * side
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        height = (y - middle[1]) * math.cos(angle) + (x - middle[0]) * math.sin(angle) - offset
        kept = (height > 0) if kind < 0.15 else (height < 0)
        mask = mask * kept
    soft = gaussian_blur(mask[None], random.uniform(0.4, 7.0) * side / REFERENCE)[0, 0]
    return soft * float(random.choice(RATIOS))


def _recoloured(images: Tensor, random: np.random.Generator) -> Tensor:
    """Other light: brightness, contrast, saturation and the three channels."""
    factors = torch.from_numpy(1 + random.uniform(-0.25, 0.25, 3)).float().view(3, 1, 1, 1, 1)
    shifts = torch.from_numpy(random.uniform(-0.08, 0.08, 3)).float().view(1, 3, 1, 1)
    return (recolour((images + 1) / 2, *factors) + shifts).clamp(0, 1) * 2 - 1


def _softened(images: Tensor, random: np.random.Generator) -> Tensor:
    """Another history: resampled, blurred, sharpened, noisy or compressed."""
    kind, amount = random.integers(5), random.random()
    side = images.shape[-1]
    if kind == 0:
        small = F.interpolate(images, scale_factor=1 / (1.2 + 1.8 * amount), mode="bilinear", antialias=True)
        return F.interpolate(small, (side, side), mode="bicubic").clamp(-1, 1)
    if kind == 1:
        return gaussian_blur(images, (0.4 + 1.4 * amount) * side / REFERENCE)
    if kind == 2:
        return (images + (0.3 + amount) * (images - gaussian_blur(images, 1.0))).clamp(-1, 1)
    if kind == 3:
        noise = torch.from_numpy(random.standard_normal(images.shape, np.float32))
        return (images + 0.03 * amount * noise).clamp(-1, 1)
    return (jpeg(images[0] / 2 + 0.5, int(30 + 60 * amount)) * 2 - 1)[None]


def _moved(images: Tensor, random: np.random.Generator) -> Tensor:
    """Shifted, turned, scaled and bent a little: features that do not quite fit."""
    side = images.shape[-1]
    angle, scales = random.normal(0, 0.04), np.exp(random.normal(0, 0.05, 2))
    shift = random.normal(0, 0.025, 2)  # of the half side
    turn = [[scales[0] * math.cos(angle), -math.sin(angle)], [math.sin(angle), scales[1] * math.cos(angle)]]
    matrix = torch.tensor([[*turn[0], shift[0]], [*turn[1], shift[1]]], dtype=torch.float32)
    grid = F.affine_grid(matrix[None], [1, 3, side, side], align_corners=False)
    bend = _noise(side, int(random.integers(3, 7)), random)
    grid = grid + random.uniform(0, 0.05) * bend.movedim(0, -1)[None]
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)


def _noise(side: int, cells: int, random: np.random.Generator) -> Tensor:
    """Two smooth random maps, float [2, S, S], of standard deviation about 1."""
    coarse = torch.from_numpy(random.standard_normal((1, 2, cells, cells), np.float32))
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)[0]
