"""Pasting back: nothing outside the region, no seam, large faces keep their detail, overlaps have no order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rayface.data.synth import draw_face
from rayface.errors import RayfaceError
from rayface.imaging.align import scales, similarity, warp_crops
from rayface.imaging.filters import gaussian_blur
from rayface.imaging.paste import already_sharp, face_region, paste_back, paste_weight, sharpness
from rayface.records import FFHQ_TEMPLATE, PARSING_ID

SIZE = 96


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def textured(height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 [3, H, W] with detail at several scales."""
    total = torch.zeros(1, 3, height, width)
    for sigma in (0.7, 2.0, 6.0):
        layer = gaussian_blur(noise(1, 3, height, width, seed=seed + int(sigma)).float() - 127.5, sigma)
        total += 25 * layer / layer.std()
    return (total[0] + 127.5).round().clamp(0, 255).to(torch.uint8)


def ellipse(size: int = SIZE) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    inside = ((x - 0.5) / 0.28) ** 2 + ((y - 0.55) / 0.33) ** 2 < 1
    return (inside * PARSING_ID["skin"]).to(torch.uint8)[None]


def placed(side: float, x: float, y: float, turn: float = 0.0) -> Tensor:
    """Matrix [1, 2, 3] of a crop that shows a square of `side` photo px at x, y, slightly turned."""
    points = torch.from_numpy(FFHQ_TEMPLATE) * side
    rotation = torch.tensor([[1.0, turn], [-turn, 1.0]]) / (1 + turn**2) ** 0.5
    return similarity((points @ rotation + torch.tensor([x, y]))[None], FFHQ_TEMPLATE, SIZE)


def test_region_keeps_the_face_and_leaves_out_the_rest() -> None:
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    mask[:, 20:60, 20:76] = PARSING_ID["hair"]
    mask[:, 60:80, 30:60] = PARSING_ID["cloth"]
    region = face_region(mask)[0]
    assert float(region[25:55, 30:66].min()) > 0.99
    assert float(region[75:].max()) == 0  # cloth, away from the hair
    assert float(region.min()) == 0
    assert float(region.max()) <= 1
    assert float(region.diff(dim=0).abs().max()) < 0.25  # feathered: no step


def test_region_is_zero_at_the_border_even_of_a_full_mask() -> None:
    full = torch.full((2, SIZE, SIZE), PARSING_ID["skin"], dtype=torch.uint8)
    region = face_region(full)
    for edge in (region[:, 0], region[:, -1], region[:, :, 0], region[:, :, -1]):
        assert float(edge.abs().max()) == 0
    assert float(region[:, SIZE // 2, SIZE // 2].min()) > 0.9999


def test_region_refuses_unknown_classes() -> None:
    with pytest.raises(RayfaceError, match="class 19"):
        face_region(torch.full((1, 8, 8), 19, dtype=torch.uint8))


@given(
    side=st.floats(12, 400),
    x=st.floats(-200, 250),
    y=st.floats(-200, 250),
    turn=st.floats(-1, 1),
    seed=st.integers(0, 5),
)
@settings(max_examples=30, deadline=None)
def test_pixels_outside_the_region_are_bit_identical(side: float, x: float, y: float, turn: float, seed: int) -> None:
    photo, matrix, region = noise(3, 180, 220, seed=seed), placed(side, x, y, turn), face_region(ellipse())
    before, original = warp_crops(photo, matrix, SIZE), photo.clone()
    result = paste_back(photo, before, noise(1, 3, SIZE, SIZE, seed=seed + 1), matrix, region)
    weight = paste_weight(region, matrix, 180, 220)
    assert torch.equal(result[:, weight == 0], photo[:, weight == 0])
    assert torch.equal(photo, original)
    assert torch.equal(paste_back(photo, before, before, matrix, region), photo)


@pytest.mark.parametrize("side", [40.0, 96.0, 300.0])
def test_the_change_arrives_whole_inside_the_face(side: float) -> None:
    photo, matrix, region = (
        torch.full((3, 400, 400), 100, dtype=torch.uint8),
        placed(side, 40, 40),
        face_region(ellipse()),
    )
    before = warp_crops(photo, matrix, SIZE)
    result = paste_back(photo, before, before + 30, matrix, region)
    inner = paste_weight(region, matrix, 400, 400) > 0.999
    assert int(inner.sum()) > 100
    assert result[:, inner].unique().tolist() == [130]


def test_no_seam_where_a_flat_photo_is_brightened() -> None:
    photo = torch.full((3, 400, 400), 100, dtype=torch.uint8)
    matrix, region = placed(320, 30, 30, 0.2), face_region(ellipse())
    before = warp_crops(photo, matrix, SIZE)
    result = paste_back(photo, before, before + 25, matrix, region)[0].int()
    # 25 levels over a ramp of at least 15 px: no neighbouring pixels differ by more than a few
    assert int(result.diff(dim=0).abs().max()) <= 3
    assert int(result.diff(dim=1).abs().max()) <= 3


@pytest.mark.parametrize("change", ["blurred", "brightened"])
def test_gradients_at_the_border_stay_in_the_photos_range(change: str) -> None:
    photo, matrix, region = textured(400, 400), placed(320, 30, 30), face_region(ellipse())
    before = warp_crops(photo, matrix, SIZE)
    after = gaussian_blur(before.float(), 2) if change == "blurred" else before.float() + 25
    result = paste_back(photo, before, after.round().clamp(0, 255).to(torch.uint8), matrix, region)
    weight = paste_weight(region, matrix, 400, 400)[:-1]
    band = (weight > 0) & (weight < 1)
    old, new = (p.float().mean(0).diff(dim=0).abs()[band] for p in (photo, result))
    assert float(new.quantile(0.99)) <= 1.05 * float(old.quantile(0.99))
    assert float(new.max()) <= 1.1 * float(old.max())


def energy(photo: Tensor, weight: Tensor) -> float:
    grey = photo.float().mean(0)
    return float((grey.diff(dim=0)[:, :-1] ** 2 + grey.diff(dim=1)[:-1] ** 2)[weight[:-1, :-1] > 0.5].mean())


def test_large_faces_keep_their_detail() -> None:
    photo, matrix, region = textured(420, 420), placed(380, 20, 20), face_region(ellipse())
    assert float(scales(matrix)) < 0.3
    before = warp_crops(photo, matrix, SIZE)
    tint = torch.tensor([12.0, 0, -12])[:, None, None]
    after = (before.float() + tint).clamp(0, 255).to(torch.uint8)
    assert not already_sharp(before, after)
    result = paste_back(photo, before, after, matrix, region)
    weight = paste_weight(region, matrix, 420, 420)
    assert energy(result, weight) >= 0.95 * energy(photo, weight)


@pytest.mark.parametrize("grain", [1, 2, 4])
def test_a_less_sharp_output_is_told_from_a_denoised_one(grain: int) -> None:
    """`grain`: side of the noise's grains in pixels; that of photos that were made larger is coarse."""
    sharp = draw_face(0, 1).image[None]
    blurred = gaussian_blur(sharp.float(), 1.0).round().to(torch.uint8)
    draws = torch.randn((1, 3, 256 // grain, 256 // grain), generator=torch.Generator().manual_seed(0))
    draws = torch.nn.functional.interpolate(draws, size=(256, 256), mode="bicubic")
    noisy = (sharp.float() + 15 * draws).round().clamp(0, 255).to(torch.uint8)
    assert already_sharp(sharp, blurred).tolist() == [True]
    assert already_sharp(blurred, sharp).tolist() == [False]
    assert sharpness(noisy) > sharpness(sharp)  # by gradient energy alone, denoising looks like blurring
    assert already_sharp(noisy, sharp).tolist() == [False]
    assert already_sharp(noisy, blurred).tolist() == [True]
    assert already_sharp(sharp, sharp).tolist() == [False]


def test_sharpness_of_a_known_ramp() -> None:
    ramp = (torch.arange(64) * 2).to(torch.uint8).expand(1, 3, 64, 64)
    assert float(sharpness(ramp)) == pytest.approx((2 / 255) ** 2, rel=1e-4)


def test_colour_matching_removes_drift_and_keeps_detail() -> None:
    photo, matrix, region = textured(200, 200), placed(120, 30, 30), face_region(ellipse())
    before = warp_crops(photo, matrix, SIZE)
    detail = torch.zeros(3, SIZE, SIZE)
    detail[:, ::8] = 20
    after = (before.float() * 0.5 + 64 + torch.tensor([30.0, -10, 0])[:, None, None] + detail).to(torch.uint8)
    inner = paste_weight(region, matrix, 200, 200) > 0.99
    drift = {}
    for match in (False, True):
        result = paste_back(photo, before, after, matrix, region, match_colour=match)
        drift[match] = (result.float() - photo.float())[:, inner].mean(1)
    assert float(drift[False][0] - drift[False][1]) > 30
    assert float(drift[True].abs().max()) < 2


@given(order=st.permutations([0, 1, 2, 3]))
@settings(max_examples=10, deadline=None)
def test_overlapping_faces_have_no_order(order: list[int]) -> None:
    photo = textured(200, 260)
    matrices = torch.cat([placed(90, 20, 20), placed(100, 50, 40, 0.3), placed(80, 70, 30), placed(60, 190, 130)])
    region = face_region(ellipse()).expand(4, -1, -1)
    before, after = warp_crops(photo, matrices, SIZE), noise(4, 3, SIZE, SIZE)
    expected = paste_back(photo, before, after, matrices, region)
    assert torch.equal(paste_back(photo, before[order], after[order], matrices[order], region), expected)


def test_the_same_face_twice_changes_it_once() -> None:
    photo, region = torch.full((3, 150, 150), 100, dtype=torch.uint8), face_region(ellipse())
    matrix = placed(100, 20, 20)
    before = warp_crops(photo, matrix, SIZE)
    once = paste_back(photo, before, before + 40, matrix, region)
    two = [t.expand(2, *t.shape[1:]) for t in (before, before + 40, matrix, region)]
    twice = paste_back(photo, *two)
    inner = paste_weight(region, matrix, 150, 150) > 0.999
    assert torch.equal(once[:, inner], twice[:, inner])


def test_no_faces_and_mismatched_crops() -> None:
    photo = noise(3, 20, 20)
    nothing = torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8)
    assert torch.equal(paste_back(photo, nothing, nothing, torch.zeros(0, 2, 3), nothing[:, 0].float()), photo)
    one = noise(1, 3, SIZE, SIZE)
    with pytest.raises(RayfaceError, match="do not fit"):
        paste_back(photo, one, one[:, :, 1:], placed(10, 2, 2), torch.zeros(1, SIZE, SIZE))
