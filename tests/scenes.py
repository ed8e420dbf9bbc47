"""Drawn photos with faces that the detector finds."""

from functools import cache

import torch
from torch import Tensor

from rayface.data.synth import draw_scene
from rayface.imaging.codec import decode

SEED = 7


@cache
def scene(index: int, faces: int = 1) -> Tensor:
    """A photo, uint8 [3, 240, 320], with `faces` people in it."""
    return draw_scene(SEED, index, (240, 320), faces).photo


def same_pixels(*files: bytes) -> bool:
    """Whether picture files show the same; their signatures differ each time."""
    first, *others = map(decode, files)
    return all(torch.equal(first, other) for other in others)
