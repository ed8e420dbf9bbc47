import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayface.data.glasses import wear_glasses
from rayface.records import FFHQ_TEMPLATE

SIDE = 64
EYES = torch.from_numpy(FFHQ_TEMPLATE)[None] * SIDE


def worn(seed: int, landmarks: torch.Tensor = EYES, grey: float = 0.2) -> torch.Tensor:
    face = torch.full((1, 3, SIDE, SIDE), grey)
    return wear_glasses(face, landmarks, np.array([True]), [np.random.default_rng(seed)])


def test_only_those_chosen_wear_them_and_the_photos_stay() -> None:
    faces = torch.zeros(3, 3, SIDE, SIDE)
    generators = [np.random.default_rng(number) for number in range(3)]
    made = wear_glasses(faces, EYES.expand(3, -1, -1), np.array([True, False, True]), generators)
    assert faces.eq(0).all()
    assert [bool(face.any()) for face in made] == [True, False, True]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_they_sit_before_the_eyes_and_nowhere_else(seed: int) -> None:
    changed = (worn(seed) - 0.2).abs().amax((0, 1)) > 0.1
    rows, columns = changed.nonzero().unbind(1)
    (left, right), eyes = EYES[0, :2], EYES[0, :2, 1].mean()
    between = float(right[0] - left[0])
    assert columns.min() < left[0] < right[0] < columns.max()
    assert rows.min() < eyes + 0.2 * between
    assert float((rows - eyes).abs().max()) < between
    assert float((columns - SIDE / 2).abs().max()) < 1.4 * between


@pytest.mark.parametrize("seed", range(12))
def test_a_mirrored_face_wears_them_mirrored(seed: int) -> None:
    """What is turned to one side is drawn as what is turned to the other."""
    mirrored = EYES[:, [1, 0, 2, 4, 3]] * torch.tensor([-1.0, 1.0]) + torch.tensor([float(SIDE), 0.0])
    one, other = worn(seed), worn(seed, mirrored).flip(-1)
    rims = [(picture < 0).any(1).float() for picture in (one, other)]
    assert (rims[0] - rims[1]).abs().mean() < 0.02, "all but the glare, which has a direction of its own"


@given(st.integers(0, 999), st.lists(st.floats(-SIDE, 2 * SIDE, width=32), min_size=10, max_size=10), st.floats(-1, 1))
@settings(deadline=None)
def test_any_landmarks_give_pictures(seed: int, numbers: list[float], grey: float) -> None:
    made = worn(seed, torch.tensor(numbers).reshape(1, 5, 2), grey)
    assert made.isfinite().all()
    assert made.min() >= -1 - 1e-5
    assert made.max() <= 1 + 1e-5
