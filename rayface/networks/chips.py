"""What a recognition network sees of an aligned crop: its own kind of picture, turned and scaled by five landmarks."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.records import FFHQ_TEMPLATE

MILD_SHRINK = 1.2  # chips up to this much smaller than what they show are sampled without a low-pass


class Chips(nn.Module):
    """Crops float [N, 3, S, S] aligned to FFHQ_TEMPLATE, any S -> float [N, 3, side, side], same range; differentiable.

    `template` float [5, 2]: where the landmarks lie in a chip, as a fraction of its side.
    """

    to_crop: Tensor

    def __init__(self, template: np.ndarray, side: int) -> None:
        super().__init__()
        self.side = side
        to_crop = _chip_to_crop(template)
        # A constant, not a weight: it is no part of a stored model.
        self.register_buffer("to_crop", to_crop, persistent=False)
        # crop sides per chip side; a plain number, as a value read from a tensor could not be exported
        self.span = float(to_crop[:, :2].norm(dim=1).mean())

    def forward(self, crops: Tensor) -> Tensor:
        shrink = self.span * crops.shape[-1] / self.side  # how many crop pixels one chip pixel spans
        if shrink > MILD_SHRINK:
            smaller = max(1, round(crops.shape[-1] / shrink))
            crops = F.interpolate(crops, (smaller, smaller), mode="bilinear", antialias=True, align_corners=False)
        grid = F.affine_grid(
            self.to_crop.to(crops.dtype).expand(crops.shape[0], 2, 3),
            [crops.shape[0], 3, self.side, self.side],
            align_corners=False,
        )
        return F.grid_sample(crops, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _chip_to_crop(template: np.ndarray) -> Tensor:
    """float32 [2, 3]: chip coordinates to crop coordinates, both from -1 to 1 as `affine_grid` wants them.

    The similarity that best maps one template to the other: in the plane one complex division (Umeyama 1991).
    """
    chip, crop = ((2 * points.astype(np.float64) - 1) @ (1, 1j) for points in (template, FFHQ_TEMPLATE))
    from_mean = chip - chip.mean()
    turn = (from_mean.conj() * (crop - crop.mean())).sum() / (np.abs(from_mean) ** 2).sum()
    shift = crop.mean() - turn * chip.mean()
    return torch.tensor([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]).float()
