"""How faces are swapped for a set of swaps: a small registry of methods, those with a model and those without."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rayface.errors import RayfaceError
from rayface.imaging.blended_swap import face_distance, swap_faces
from rayface.imaging.filters import resize_images
from rayface.imaging.paste import face_region
from rayface.stages import resize_crops


@dataclass(frozen=True)
class Pairs:
    """Photos that get faces, and photos whose faces they get.

    Crops uint8 [N, 3, S, S]; landmarks float32 [N, 5, 2] in pixels; masks uint8 [N, S, S], None where not all have one.
    """

    texture: Tensor
    donor: Tensor
    texture_landmarks: Tensor
    donor_landmarks: Tensor
    texture_masks: Tensor | None = None
    donor_masks: Tensor | None = None


Swap = Callable[[Pairs], Tensor]  # -> crops uint8 [N, 3, S, S]


@dataclass(frozen=True)
class Method:
    """`make` gives what swaps, from the step of a model of `system`, or from None where `system` is ""."""

    make: Callable[[Any], Swap]
    system: str = ""


def _blend(_: Any) -> Swap:
    def swap(pairs: Pairs) -> Tensor:
        return swap_faces(
            pairs.texture,
            pairs.donor,
            pairs.texture_landmarks,
            pairs.donor_landmarks,
            pairs.texture_masks,
            pairs.donor_masks,
        )

    return swap


def _by_step(step: Any) -> Swap:
    """The step's faces in the texture's photos, as the service puts them there."""

    def swap(pairs: Pairs) -> Tensor:
        donors = [donor.numpy() for donor in resize_images(pairs.donor, step.size)]
        return applied(
            step,
            pairs.texture,
            pairs.texture_landmarks,
            pairs.texture_masks,
            {"donor": donors},
        )

    return swap


METHODS: dict[str, Method] = {"face_swap": Method(_by_step, "face_swap"), "blend": Method(_blend)}


def find_method(name: str) -> Method:
    if name not in METHODS:
        raise RayfaceError(f"swaps: method {name!r} is unknown; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def applied(
    step: Any, crops: Tensor, landmarks: Tensor, masks: Tensor | None, params: dict[str, Any] | None = None
) -> Tensor:
    """Crops uint8 [N, 3, S, S] after a face step, whose change is let through at the face only, softly at its edge.

    Landmarks float [N, 5, 2] and masks uint8 [N, S, S] say where the face is; see `paste.face_region`.
    """
    native, side = resize_crops(crops, step.size), crops.shape[-1]
    change = step(native, params or {}).float() - native.float()
    if step.size != side:  # as `stages.run_step` does
        change = interpolate(change, (side, side), mode="bicubic", align_corners=False)
    region = _around(landmarks, side) if masks is None else face_region(masks)
    mixed = crops.float() + region[:, None] * change
    return mixed.round().clamp(0, 255).to(torch.uint8)


def _around(landmarks: Tensor, side: int) -> Tensor:
    """As `face_region` where nothing was parsed: a soft ellipse, float [N, S, S]."""
    return ((1.4 - face_distance(landmarks, side)) / 0.3).clamp(0, 1)
