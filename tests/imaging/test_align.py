"""Alignment: the similarity is exact, crops are where the landmarks say, shrinking does not alias."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayface.errors import RayfaceError
from rayface.imaging.align import invert, scales, similarity, transform_points, warp_crops, warp_masks
from rayface.records import FFHQ_TEMPLATE, LANDMARK_FLIP

TEMPLATE = torch.from_numpy(FFHQ_TEMPLATE)


def placed(size: float, angle: float, x: float, y: float) -> torch.Tensor:
    """FFHQ landmarks [1, 5, 2] of a face whose crop is `size` px wide, turned by `angle`, shifted to x, y."""
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return (TEMPLATE * size @ turn + torch.tensor([x, y]))[None]


@given(
    size=st.floats(20, 3000),
    angle=st.floats(-3.1, 3.1),
    x=st.floats(-500, 4000),
    y=st.floats(-500, 4000),
    side=st.sampled_from([64, 256, 512]),
)
@settings(max_examples=50, deadline=None)
def test_similarity_recovers_the_map_and_inverts(size: float, angle: float, x: float, y: float, side: int) -> None:
    landmarks = placed(size, angle, x, y)
    matrices = similarity(landmarks, FFHQ_TEMPLATE, side)
    mapped = transform_points(landmarks, matrices)
    assert torch.allclose(mapped[0], TEMPLATE * side, atol=0.02)
    assert float(scales(matrices)) == pytest.approx(side / size, rel=1e-4)
    back = transform_points(mapped, invert(matrices.double()))
    assert torch.allclose(back, landmarks, atol=0.05)


def test_similarity_is_least_squares_without_reflection() -> None:
    rng = np.random.default_rng(0)
    noisy = placed(300, 0.3, 50, 80)[0].numpy() + rng.normal(0, 5, (5, 2))
    matrix = similarity(noisy, FFHQ_TEMPLATE, 256)

    def loss(candidate: torch.Tensor) -> float:
        points = torch.from_numpy(noisy)[None]
        return float((transform_points(points, candidate) - TEMPLATE * 256).square().sum())

    best = loss(matrix)
    for change in ([[0.01, 0, 0], [0, 0.01, 0]], [[0, -0.01, 0], [0.01, 0, 0]], [[0, 0, 1], [0, 0, 0]]):
        for sign in (1, -1):
            assert loss(matrix + sign * torch.tensor([change])) > best
    mirrored = TEMPLATE.clone()
    mirrored[:, 0] = 1 - mirrored[:, 0]  # a mirrored face must not be mirrored back
    linear = similarity(mirrored * 100, FFHQ_TEMPLATE, 256)[0, :, :2]
    assert float(torch.linalg.det(linear)) > 0


@pytest.mark.parametrize("bad", [np.full((1, 5, 2), 7.0), np.full((1, 5, 2), np.nan), np.zeros((1, 4, 2))])
def test_similarity_refuses_useless_landmarks(bad: np.ndarray) -> None:
    with pytest.raises(RayfaceError, match="landmarks"):
        similarity(bad, FFHQ_TEMPLATE, 256)


def smooth_photo(height: int, width: int) -> torch.Tensor:
    """Red grows with x, green with y, blue is a slow wave; uint8 [3, H, W]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = 128 + 100 * torch.sin(x / 40) * torch.cos(y / 40)
    return torch.stack([255 * x / width, 255 * y / height, wave]).to(torch.uint8)


@pytest.mark.parametrize("size", [60.0, 128.0, 700.0])
def test_crops_show_the_photo_where_the_matrix_says(size: float) -> None:
    photo = smooth_photo(900, 1000)
    matrices = similarity(placed(size, 0.4, 250, 80), FFHQ_TEMPLATE, 128)
    crop = warp_crops(photo, matrices, 128)[0]
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    points = transform_points(torch.stack([x, y], 2).reshape(1, -1, 2), invert(matrices))[0]
    inside = (points > 3).all(1) & (points < torch.tensor([996.0, 896.0])).all(1)
    assert int(inside.sum()) > 10_000
    # red and green are ramps: they tell the position itself, to half a level
    expected = torch.stack([255 * points[:, 0] / 1000, 255 * points[:, 1] / 900]) - 0.5
    error = (crop[:2].reshape(2, -1) - expected)[:, inside]
    assert float(error.abs().max()) < 1.6
    assert float(error.mean().abs()) < 0.1


def test_the_identity_is_exact() -> None:
    photo = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    same = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    assert torch.equal(warp_crops(photo, same, 64)[0], photo)


def test_large_faces_do_not_alias() -> None:
    stripes = (torch.arange(1024) % 2 * 255).to(torch.uint8).expand(3, 1024, 1024)
    crop = warp_crops(stripes, similarity(placed(900, 0.1, 60, 60), FFHQ_TEMPLATE, 128), 128).float()
    assert float((crop - 127.5).abs().max()) < 8  # plain sampling would give anything from 0 to 255


def test_borders_are_replicated() -> None:
    photo = torch.full((3, 50, 50), 200, dtype=torch.uint8)
    crop = warp_crops(photo, similarity(placed(400, 0.5, -150, -180), FFHQ_TEMPLATE, 64), 64)
    assert int(crop.min()) == int(crop.max()) == 200


def test_a_crop_beside_the_photo_is_its_border() -> None:
    photo = torch.full((3, 40, 30), 90, dtype=torch.uint8)
    far = torch.tensor([[[1.0, 0, 5000], [0, 1, 5000]], [[1.0, 0, -5000], [0, 1, -5000]]])
    assert warp_crops(photo, far, 32).unique().tolist() == [90]


def test_masks_keep_their_ids_and_follow_the_crop() -> None:
    photo = torch.zeros(3, 300, 300, dtype=torch.uint8)
    photo[:, 100:200, 120:180] = 255
    mask = (photo[0] == 255).to(torch.uint8) * 13
    matrices = similarity(placed(250, 0.2, 30, 20), FFHQ_TEMPLATE, 200)
    crop, ids = warp_crops(photo, matrices, 200)[0, 0], warp_masks(mask, matrices, 200)[0]
    assert ids.unique().tolist() == [0, 13]
    assert float(((crop > 127) == (ids == 13)).float().mean()) > 0.995


def test_no_faces_give_no_crops() -> None:
    photo = torch.zeros(3, 10, 10, dtype=torch.uint8)
    assert warp_crops(photo, torch.zeros(0, 2, 3), 16).shape == (0, 3, 16, 16)
    assert warp_masks(photo[0], torch.zeros(0, 2, 3), 16).shape == (0, 16, 16)


def test_mirroring_commutes_with_cropping() -> None:
    photo = smooth_photo(300, 400)
    landmarks = placed(150, 0.2, 120, 70)
    mirrored = landmarks.clone()
    mirrored[:, :, 0] = 399 - mirrored[:, :, 0]
    mirrored = mirrored[:, LANDMARK_FLIP.tolist()]
    template = FFHQ_TEMPLATE * 128
    other = template.copy()
    other[:, 0] = 127 - other[:, 0]
    plain = warp_crops(photo, similarity(landmarks, template / 128, 128), 128)
    flipped = warp_crops(photo.flip(2), similarity(mirrored, other[LANDMARK_FLIP] / 128, 128), 128)
    assert int((plain.flip(3).int() - flipped.int()).abs().max()) <= 1
