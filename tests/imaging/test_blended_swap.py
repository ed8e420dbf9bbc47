"""The classical swap: what is outside the face stays, no jump at its edge, a face swapped with itself is itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from rayface.data.dataset import FaceDataset
from rayface.imaging.align import transform_points
from rayface.imaging.blended_swap import (
    affine_maps,
    face_ellipse,
    match_colours,
    membrane,
    swap_faces,
    swapped_region,
)
from rayface.randomness import generator
from rayface.records import FFHQ_TEMPLATE, PARSING_ID

SIDE = 64


def pictures(seed: int, count: int = 2) -> Tensor:
    """Smooth noise, uint8 [N, 3, 64, 64]."""
    coarse = torch.from_numpy(generator(seed, stream="blended swap test").random((count, 3, 9, 9)))
    return (interpolate(coarse, SIDE, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def landmarks(seed: int, count: int = 2) -> Tensor:
    moved = torch.from_numpy(generator(seed, stream="landmarks").normal(0, 2, (count, 5, 2)))
    return torch.from_numpy(FFHQ_TEMPLATE * SIDE) + moved


@given(st.integers(0, 1000))
def test_nothing_outside_of_the_region_changes(seed: int) -> None:
    texture, donor, points = pictures(seed), pictures(seed + 1), landmarks(seed)
    swapped = swap_faces(texture, donor, points, landmarks(seed + 1))
    region = swapped_region(points, SIDE)
    outside = ~region[:, None].expand_as(texture)
    assert torch.equal(swapped[outside], texture[outside])
    assert (swapped != texture).any(1)[region].float().mean() > 0.5


@given(st.integers(0, 1000))
def test_there_is_no_jump_at_the_edge(seed: int) -> None:
    """Across the edge the swap is no steeper than the two pictures, however different their colours are."""
    texture, points = pictures(seed), landmarks(seed)
    donor = (pictures(seed + 1).float() * 0.4 + 150).to(torch.uint8)  # pale
    swapped = swap_faces(texture, donor, points, points).float()
    region = swapped_region(points, SIDE)[:, None].float()
    across = region[..., 1:] != region[..., :-1]
    steps = (swapped[..., 1:] - swapped[..., :-1]).abs()
    # the donor's own steps, at most 1.5 times stronger by the match of colours
    own = (texture.float()[..., 1:] - texture.float()[..., :-1]).abs().amax((1, 2, 3))
    theirs = 1.5 * (donor.float()[..., 1:] - donor.float()[..., :-1]).abs().amax((1, 2, 3))
    for picture in range(2):
        assert steps[picture][across[picture].expand(3, -1, -1)].max() <= own[picture] + theirs[picture] + 2
    naive = torch.where(region > 0, donor.float(), texture.float())
    jump = (naive[..., 1:] - naive[..., :-1]).abs()
    assert steps[across.expand_as(steps)].mean() < 0.5 * jump[across.expand_as(jump)].mean()


@given(st.integers(0, 1000))
def test_a_face_swapped_with_itself_is_itself(seed: int) -> None:
    texture, points = pictures(seed), landmarks(seed)
    swapped = swap_faces(texture, texture, points, points)
    assert (swapped.int() - texture.int()).abs().max() <= 1


def test_drawn_faces_with_masks(drawn_faces: str) -> None:
    """Hair and background stay the texture's; eyes become the donor's."""
    faces = FaceDataset(drawn_faces, None, SIDE)
    texture, donor = (faces.batch(chosen, ("image", "landmarks", "mask")) for chosen in ([0, 1, 2], [3, 4, 5]))
    swapped = swap_faces(
        texture["image"], donor["image"], texture["landmarks"], donor["landmarks"], texture["mask"], donor["mask"]
    )  # type: ignore[arg-type]
    changed = (swapped != texture["image"]).any(1)
    assert not changed[texture["mask"] == PARSING_ID["hair"]].any()  # type: ignore[call-overload]
    assert changed[texture["mask"] == PARSING_ID["nose"]].float().mean() > 0.5  # type: ignore[call-overload]


def test_a_bad_mask_of_the_donor_is_passed_over() -> None:
    texture, donor, points = pictures(0), pictures(1), landmarks(0)
    nothing = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    assert torch.equal(
        swap_faces(texture, donor, points, points, donor_masks=nothing), swap_faces(texture, donor, points, points)
    )


def test_a_membrane_through_a_plane_is_the_plane() -> None:
    """Planes are harmonic: what is around one tells all of it."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    plane = (2.0 * x - y + 7)[None, None]
    region = face_ellipse(landmarks(0, 1), SIDE)
    hidden = torch.where(region[:, None], 0.0, plane)
    assert torch.allclose(membrane(hidden, region), plane, atol=0.5)


@given(st.integers(0, 1000))
def test_a_membrane_lies_between_its_edge_values(seed: int) -> None:
    edge, region = pictures(seed).float(), swapped_region(landmarks(seed), SIDE)
    found = membrane(edge, region)
    assert torch.equal(found[~region[:, None].expand_as(found)], edge[~region[:, None].expand_as(edge)])
    near = max_pool2d(region[:, None].float(), 3, 1, 1).bool() & ~region[:, None]
    for picture in range(2):
        around = edge[picture][near[picture].expand(3, -1, -1)]
        inside = found[picture][region[picture].expand(3, -1, -1)]
        assert around.min() - 1 <= inside.min()
        assert inside.max() <= around.max() + 1


def test_affine_maps_are_found_again() -> None:
    points = landmarks(3)
    matrices = torch.tensor([[[1.1, 0.2, 3], [-0.1, 0.9, -4]], [[1, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    found = affine_maps(points, transform_points(points, matrices))
    assert torch.allclose(found, matrices, atol=1e-6)
    assert torch.equal(affine_maps(points, points)[0], torch.eye(2, 3, dtype=torch.float64))


def test_colours_are_matched_in_the_region() -> None:
    texture, donor = pictures(0).float(), pictures(1).float() * 0.8 + 30
    region = face_ellipse(landmarks(0), SIDE)
    matched = match_colours(donor, texture, region)
    for picture in range(2):
        assert matched[picture, :, region[picture]].mean(1).tolist() == pytest.approx(
            texture[picture, :, region[picture]].mean(1).tolist(), abs=0.1
        )


def test_the_region_is_the_face_and_never_the_border() -> None:
    far = torch.from_numpy(FFHQ_TEMPLATE * SIDE)[None] * 1.4 - 10
    region = swapped_region(far, SIDE)
    assert region.any()
    assert not region[:, 0].any()
    assert not region[:, -1].any()
    assert not region[..., 0].any()
    assert not region[..., -1].any()
    eyes = swapped_region(landmarks(0, 1), SIDE)[0]
    for x, y in (FFHQ_TEMPLATE * SIDE).round().astype(int):
        assert eyes[y, x]
