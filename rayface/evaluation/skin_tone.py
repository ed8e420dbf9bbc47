"""Skin tone as the individual typology angle (ITA), degrees: above 55 very light, below -30 dark (Chardon 1991)."""

import torch
from torch import Tensor

from rayface.imaging.codec import to_float


def typology_angle(crops: Tensor, skin: Tensor) -> Tensor:
    """ITA of each face, float [N], of crops uint8 [N, 3, S, S] over `skin` bool [N, S, S]; NaN without skin.

    arctan((L - 50) / b) of the mean CIELAB colour. In photos it tells the light as much as the skin: compare it within
    a photo.
    """
    from kornia.color import rgb_to_lab

    lab = rgb_to_lab((to_float(crops) + 1) / 2)
    area = skin.sum((1, 2))
    mean = (lab * skin[:, None]).sum((2, 3)) / area[:, None]  # 0 / 0 is NaN
    return torch.rad2deg(torch.atan2(mean[:, 0] - 50, mean[:, 2]))
