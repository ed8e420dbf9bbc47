"""Sharpness falls under blur and looks at the face only."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayface.data.synth import draw_face
from rayface.imaging.filters import gaussian_blur
from rayface.imaging.quality import face_sharpness

SHARP = 0  # a drawn photo that is not out of focus


def face(index: int, size: int = 256) -> torch.Tensor:
    return draw_face(5, index, size).image[None]


def blurred(crop: torch.Tensor, sigma: float) -> torch.Tensor:
    return gaussian_blur(crop.float(), sigma).round().clamp(0, 255).byte()


@given(st.integers(0, 400), st.floats(0.4, 5.0), st.floats(1.2, 2.0))
def test_more_blur_is_less_sharp(index: int, sigma: float, more: float) -> None:
    crop = face(index)
    values = [float(face_sharpness(blurred(crop, s))) for s in (0, sigma, sigma * more)]
    assert values[0] > values[1] > values[2] > 0


def test_brightness_and_contrast_do_not_matter() -> None:
    crop = face(2)
    darker = (crop.float() * 0.5 + 20).round().byte()
    assert float(face_sharpness(darker)) == pytest.approx(float(face_sharpness(crop)), rel=0.05)


def test_an_enlarged_photo_is_softer() -> None:
    crop = face(SHARP)
    small = torch.nn.functional.interpolate(crop.float(), 64, mode="area").round().byte()
    enlarged = torch.nn.functional.interpolate(small.float(), 256, mode="bicubic").round().clamp(0, 255).byte()
    assert face_sharpness(enlarged) < 0.9 * face_sharpness(crop)
    assert float(face_sharpness(small)) == pytest.approx(float(face_sharpness(enlarged)), rel=0.15)


def test_the_background_does_not_matter() -> None:
    crop = face(6)
    noisy = crop.clone()
    noisy[:, :, :60] = torch.randint(0, 256, noisy[:, :, :60].shape, dtype=torch.uint8)
    noisy[:, :, :, 230:] = 0
    assert torch.equal(face_sharpness(noisy), face_sharpness(crop))
    assert float(face_sharpness(torch.full_like(crop, 7))) == 0
