"""Differentiable changes that leave a face what it is: a discriminator that sees them cannot learn its photos by heart.

(DiffAugment, Zhao et al. 2020.) The draws (`data.augmentation.draw_view`) come with the batch, so that they do not
depend on the number of ranks.
"""

import torch.nn.functional as F
from torch import Tensor

from rayface.imaging.filters import gaussian_blur, recolour

VIEW_NUMBERS = 13  # six of the matrix, brightness, contrast, saturation, blur, gains of red, green and blue
BLUR = 9  # its place


def view(images: Tensor, numbers: Tensor) -> Tensor:
    """float [N, 3, S, S] in [-1, 1], each moved, recoloured and blurred by its row of float [N, VIEW_NUMBERS]."""
    images = images.float()
    grid = F.affine_grid(numbers[:, :6].reshape(-1, 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation, blur = (numbers[:, place].view(-1, 1, 1, 1) for place in range(6, 10))
    light = recolour((moved + 1) / 2 * numbers[:, 10:, None, None], brightness, contrast, saturation)
    blurred = gaussian_blur(light, images.shape[-1] / 128)  # 2 px of 256
    return (light + (blurred - light) * blur) * 2 - 1


def unmoved(numbers: Tensor) -> Tensor:
    """The same light and blur, float [N, VIEW_NUMBERS], of pictures that stay where they are."""
    numbers = numbers.clone()
    numbers[:, :6] = numbers.new_tensor([1, 0, 0, 0, 1, 0])
    return numbers
