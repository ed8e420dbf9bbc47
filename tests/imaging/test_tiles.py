"""A photo in tiles is the photo at once, whatever their sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from rayface.errors import RayfaceError
from rayface.imaging.tiles import allowed_scale, run_tiled


def neighbourhood(scale: int, reach: int):
    """A function that looks exactly `reach` pixels far, in whole numbers: any pixel too few or doubled shows.

    Zero padding, as in convolutions: a window's own border gives other sums than the photo's inside.
    """

    def function(window: Tensor) -> Tensor:
        sums = functional.avg_pool2d(window[None], 2 * reach + 1, 1, reach, divisor_override=1)[0]
        return sums.repeat_interleave(scale, -2).repeat_interleave(scale, -1)

    return function


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    reach=st.integers(0, 6),
    extra=st.integers(1, 20),
    scale=st.integers(1, 4),
)
def test_tiled_equals_untiled(height: int, width: int, reach: int, extra: int, scale: int) -> None:
    photo = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(height)).float()
    function = neighbourhood(scale, reach)
    tiled = run_tiled(photo, function, scale, 2 * reach + extra, reach)
    assert torch.equal(tiled, function(photo))


@given(height=st.integers(1, 90), width=st.integers(1, 90), tile=st.integers(9, 40))
def test_windows_have_one_size_and_stay_inside(height: int, width: int, tile: int) -> None:
    photo = torch.arange(height * width).reshape(1, height, width)
    shapes = set()

    def keep(window: Tensor) -> Tensor:
        shapes.add(tuple(window.shape[1:]))
        return window

    assert torch.equal(run_tiled(photo, keep, 1, tile, 4), photo)
    assert shapes == {(min(tile, height), min(tile, width))}


def test_too_little_reach_shows_at_the_seams() -> None:
    """The property above can fail."""
    photo = torch.rand(1, 64, 64)
    function = neighbourhood(2, 3)
    assert not torch.equal(run_tiled(photo, function, 2, 16, 2), function(photo))


def test_tiles_smaller_than_the_reach_are_refused() -> None:
    with pytest.raises(RayfaceError, match=r"tiles of 12 px .* looks 6 px far"):
        run_tiled(torch.zeros(3, 40, 40), lambda window: window, 1, 12, 6)


@pytest.mark.parametrize(
    ("height", "width", "wanted", "scale"),
    [
        (1000, 2000, 2, 2),
        (1000, 2000, 4, 4),  # 32 MP, just allowed
        (1001, 2000, 4, 2),
        (3000, 4000, 2, 1),  # 12 MP would become 48
        (100, 100, 3, 2),  # no head for 3
    ],
)
def test_allowed_scale(height: int, width: int, wanted: int, scale: int) -> None:
    assert allowed_scale(height, width, wanted, (2, 4), 32) == scale
