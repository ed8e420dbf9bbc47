"""What beauty cameras did before networks: smooth the skin, enlarge the eyes, narrow the jaw. A baseline."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import gaussian_blur
from rayface.records import PARSING_ID

EYES, JAW = 0.04, 0.03  # enlargement of the eyes and narrowing of the jaw: mild, as shares
LEFT_EYE, RIGHT_EYE, CHIN = (-0.246, -0.063), (0.246, -0.063), (0.0, 0.62)  # of aligned crops, in -1..1


def smooth_and_warp(crops: Tensor, masks: Tensor) -> Tensor:
    """Crops uint8 [N, 3, S, S], aligned as FFHQ's, with ids [N, S, S] -> the same, beautified by filters.

    A bilateral filter (9 px, sigma 0.2 of the range and 3 px of 256) where the mask shows skin or nose, 70 % of it,
    then the warp.
    """
    from kornia.filters import bilateral_blur

    images = to_float(crops)
    skin = ((masks == PARSING_ID["skin"]) | (masks == PARSING_ID["nose"])).float()[:, None]
    soft = gaussian_blur(skin, 2.0) * skin
    images = images + 0.7 * soft * (bilateral_blur(images, (9, 9), 0.4, (3.0, 3.0)) - images)
    return to_uint8(_warp(images))


def _warp(images: Tensor) -> Tensor:
    """Larger eyes and a narrower jaw, each around a fixed place of the aligned crop."""
    size = images.shape[-1]
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    dx, dy = torch.zeros_like(x), torch.zeros_like(y)
    for eye_x, eye_y in (LEFT_EYE, RIGHT_EYE):
        near = torch.exp(-((x - eye_x) ** 2 + (y - eye_y) ** 2) / (2 * 0.12**2))
        dx, dy = dx - EYES * near * (x - eye_x), dy - EYES * near * (y - eye_y)
    near = torch.exp(-((y - CHIN[1]) ** 2) / (2 * 0.2**2) - (x - CHIN[0]) ** 2 / (2 * 0.5**2))
    dx = dx + JAW * near * (x - CHIN[0])
    grid = torch.stack([x + dx, y + dy], -1).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
