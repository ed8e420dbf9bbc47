"""Drawn photos with faces that the detector finds."""

from functools import cache

from torch import Tensor

from rayface.data.synth import draw_scene

SEED = 7


@cache
def scene(index: int, faces: int = 1) -> Tensor:
    """A photo, uint8 [3, 240, 320], with `faces` people in it."""
    return draw_scene(SEED, index, (240, 320), faces).photo
