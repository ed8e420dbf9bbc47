"""How good a face crop is to learn from."""

import torch.nn.functional as F
from torch import Tensor

from rayface.imaging.filters import luminance

SIDE = 256  # crops are measured at this side, so that a small photo that was enlarged counts as soft
# Brows to mouth of an FFHQ-aligned crop, cheek to cheek: a sharp background does not make a face sharp.
ROWS, COLUMNS = (0.36, 0.80), (0.28, 0.72)


def face_sharpness(crops: Tensor) -> Tensor:
    """Sharpness of the face in FFHQ-aligned crops uint8 [N, 3, S, S]: float32 [N], 0 (flat) to 2, photos 0.1 to 0.6.

    The root mean square of the luminance's gradient in the middle of the face over that of the luminance's own
    deviations, at 256 px: its root mean square frequency, so brightness and contrast do not matter. Blur lowers it,
    as it leaves less of the higher frequencies. (The Laplacian in place of the gradient tells slight blur better, but
    from 4 px on the rounding to 8 bits is all it sees.) Noise counts as detail.
    """
    grey = luminance(crops)[:, None]
    if crops.shape[-1] != SIDE:
        grey = F.interpolate(grey, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    (top, bottom), (left, right) = ((round(a * SIDE), round(b * SIDE)) for a, b in (ROWS, COLUMNS))
    face = grey[:, 0, top:bottom, left:right]
    energy = face.diff(dim=-1).square().mean((1, 2)) + face.diff(dim=-2).square().mean((1, 2))
    spread = (face - face.mean((1, 2), keepdim=True)).square().mean((1, 2)).sqrt()
    return energy.sqrt() / spread.clamp_min(1 / 255)
