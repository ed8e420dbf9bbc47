"""Aligned face crops: the similarity from five landmarks, and the warps that use it.

Pixel coordinates are x then y, and the centre of the top left pixel is (0, 0). A matrix is `float32 [2, 3]` and
maps photo pixels to crop pixels.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rayface.errors import RayfaceError

# Shrinking by less than this needs no low-pass before sampling: a cubic kernel shows no aliasing there.
MILD_SHRINK = 1.25


def similarity(landmarks: Tensor | np.ndarray, template: Tensor | np.ndarray, size: int) -> Tensor:
    """The similarities (rotation, one scale, shift) that best map landmarks to a template.

    `landmarks`: [N, P, 2] (or [P, 2] for one face) in photo pixels. `template`: [P, 2] as fractions of the
    crop's side (`records.FFHQ_TEMPLATE`, ...); `size`: the crop's side in pixels. Returns matrices, float32
    [N, 2, 3]. Least squares without reflection, in float64: S. Umeyama, "Least-squares estimation of
    transformation parameters between two point patterns", PAMI 1991; in the plane it is one complex division.
    Raises RayfaceError where landmarks are not finite or all in one place.
    """
    source = torch.as_tensor(landmarks).double()
    source = source[None] if source.dim() == 2 else source
    target = torch.as_tensor(template).double().to(source.device) * size
    if source.dim() != 3 or source.shape[1:] != target.shape:
        raise RayfaceError(f"landmarks have shape {list(source.shape)}; this template needs [N, {target.shape[0]}, 2].")
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(0)
    points = torch.view_as_complex((source - source_mean).contiguous())
    wanted = torch.view_as_complex((target - target_mean).contiguous())
    spread = points.abs().square().sum(1)
    if not bool((torch.isfinite(spread) & (spread > 1e-6)).all()):
        raise RayfaceError("landmarks are not finite or all in one place; drop this face or label it again.")
    turn = (points.conj() * wanted).sum(1) / spread  # scale * exp(i * angle)
    linear = torch.stack([turn.real, -turn.imag, turn.imag, turn.real], 1).reshape(-1, 2, 2)
    shift = target_mean[:, None] - linear @ source_mean.transpose(1, 2)
    return torch.cat([linear, shift], 2).float()


def invert(matrices: Tensor) -> Tensor:
    """The inverse maps of matrices [N, 2, 3] (crop pixels to photo pixels); same dtype."""
    linear, shift = matrices[:, :, :2].double(), matrices[:, :, 2:].double()
    inverse = torch.linalg.inv(linear)
    return torch.cat([inverse, -inverse @ shift], 2).to(matrices.dtype)


def transform_points(points: Tensor, matrices: Tensor) -> Tensor:
    """Points [N, P, 2], the k-th set mapped by the k-th of matrices [N, 2, 3]; same dtype as `points`."""
    maps = matrices.double()
    return (points.double() @ maps[:, :, :2].transpose(1, 2) + maps[:, None, :, 2]).to(points.dtype)


def scales(matrices: Tensor) -> Tensor:
    """Crop pixels per photo pixel, float32 [N]: above 1 the face is smaller than its crop."""
    return torch.linalg.det(matrices[:, :, :2].double()).abs().sqrt().float()


def warp_crops(photo: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Aligned crops of one photo.

    `photo`: uint8 [3, H, W]; `matrices`: [N, 2, 3] photo to crop; `size`: side S. Returns uint8 [N, 3, S, S].
    Faces larger than the crop are low-passed first (no aliasing), and beyond the photo its border is replicated.
    """
    inverses = invert(matrices.double())
    crops = [resample(photo, inverse, size, size) for inverse in inverses]
    if not crops:
        return photo.new_zeros((0, photo.shape[0], size, size))
    return torch.stack(crops).round_().clamp_(0, 255).to(torch.uint8)


def warp_masks(mask: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Crops of one photo's mask of class ids, uint8 [H, W] -> [N, S, S]: nearest neighbour, border replicated."""
    height, width = mask.shape
    crops = []
    for inverse in invert(matrices.double()):
        x, y = _grid(inverse.to(mask.device), size, size).round().long().unbind(-1)
        crops.append(mask[y.clamp(0, height - 1), x.clamp(0, width - 1)])
    return torch.stack(crops) if crops else mask.new_zeros((0, size, size))


def resample(image: Tensor, matrix: Tensor, height: int, width: int, mode: str = "bicubic") -> Tensor:
    """One picture seen through an affine map, anti-aliased, its border replicated.

    `image`: [C, H, W], uint8 or float; `matrix`: [2, 3], maps *output* pixels to `image` pixels; `mode`:
    "bicubic" or "bilinear". Returns float32 [C, height, width] in the image's own range (cubic sampling may
    overshoot it). Only the region that the output sees is read: the cost follows the output, not the photo.
    """
    matrix = matrix.double().cpu()
    left, top, right, bottom = _region(matrix, height, width, image.shape[-1], image.shape[-2])
    part = image[None, :, top:bottom, left:right]
    matrix = matrix - matrix.new_tensor([[0, 0, left], [0, 0, top]])
    shrink = math.sqrt(abs(float(torch.linalg.det(matrix[:, :2]))))
    if shrink > MILD_SHRINK:
        part, matrix = _shrink(part, matrix, shrink)
    grid = _grid(matrix.to(image.device), height, width).float()
    last = grid.new_tensor([max(part.shape[-1] - 1, 1), max(part.shape[-2] - 1, 1)])
    grid = (grid * (2 / last) - 1)[None]
    return functional.grid_sample(part.float(), grid, mode, padding_mode="border", align_corners=True)[0]


def _region(matrix: Tensor, height: int, width: int, image_width: int, image_height: int) -> tuple[int, ...]:
    """left, top, right, bottom (exclusive) of what the output sees of the image, with room for the kernels."""
    corners = matrix.new_tensor([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    seen = corners @ matrix[:, :2].T + matrix[:, 2]
    room = 3 * max(1.0, math.sqrt(abs(float(torch.linalg.det(matrix[:, :2])))))
    low, high = (seen.amin(0) - room).floor(), (seen.amax(0) + room).ceil()
    left = min(max(int(low[0]), 0), image_width - 1)
    top = min(max(int(low[1]), 0), image_height - 1)
    right = max(min(int(high[0]) + 1, image_width), left + 1)
    bottom = max(min(int(high[1]) + 1, image_height), top + 1)
    return left, top, right, bottom


def _shrink(part: Tensor, matrix: Tensor, shrink: float) -> tuple[Tensor, Tensor]:
    """A low-passed copy of `part` [1, C, h, w], `shrink` times smaller, and the map to its pixels."""
    old_height, old_width = part.shape[-2:]
    new_height, new_width = max(1, round(old_height / shrink)), max(1, round(old_width / shrink))
    if part.device.type != "cpu":  # the uint8 kernel, four times faster, exists on the CPU only
        part = part.float()
    small = functional.interpolate(part, (new_height, new_width), mode="bicubic", antialias=True)
    factor = matrix.new_tensor([[new_width / old_width], [new_height / old_height]])
    matrix = matrix * factor
    matrix[:, 2:] += (factor - 1) / 2  # pixel centres, not corners, are at whole numbers
    return small, matrix


def _grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel lies in the picture: float64 [height, width, 2]."""
    x = torch.arange(width, dtype=torch.float64, device=matrix.device)
    y = torch.arange(height, dtype=torch.float64, device=matrix.device)
    return x[None, :, None] * matrix[:, 0] + y[:, None, None] * matrix[:, 1] + matrix[:, 2]
