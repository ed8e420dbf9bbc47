import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayface.data.covers import cover_faces
from rayface.records import FFHQ_TEMPLATE

SIDE = 64


def covered(seed: int, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    face = torch.full((1, 3, side, side), 0.2)
    return cover_faces(face, np.array([True]), [np.random.default_rng(seed)])


def test_only_those_chosen_are_covered_and_the_photos_stay() -> None:
    faces = torch.zeros(3, 3, SIDE, SIDE)
    generators = [np.random.default_rng(number) for number in range(3)]
    made, covers = cover_faces(faces, np.array([True, False, True]), generators)
    assert faces.eq(0).all()
    assert [bool(face.any()) for face in made] == [True, False, True]
    assert [bool(cover.any()) for cover in covers] == [True, False, True]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_what_changes_is_what_is_said_to_be_covered_below_the_eyes(seed: int) -> None:
    face, cover = covered(seed)
    assert (face.min(), face.max()) >= (-1, -1)
    assert face.max() <= 1
    assert 0 <= cover.min() <= cover.max() <= 1
    changed = (face - 0.2).abs().amax(1, keepdim=True) > 1e-6
    assert not (changed & (cover == 0)).any()
    assert float(cover[..., : int(FFHQ_TEMPLATE[0, 1] * SIDE) - 4, :].max()) < 1e-3


def test_they_often_hide_the_mouth_and_never_look_the_same() -> None:
    x, y = (FFHQ_TEMPLATE[3:].mean(0) * SIDE).astype(int)
    made = [covered(seed) for seed in range(60)]
    hidden = np.mean([float(cover[0, 0, y, x]) > 0.5 for _, cover in made])
    assert 0.25 < hidden < 0.9
    colours = torch.stack([(face * cover).sum((0, 2, 3)) / cover.sum().clamp_min(1) for face, cover in made])
    assert float(colours.std(0).min()) > 0.2


@pytest.mark.parametrize("side", [32, 256])
def test_any_side(side: int) -> None:
    face, cover = covered(3, side)
    assert face.shape == (1, 3, side, side)
    assert cover.shape == (1, 1, side, side)
