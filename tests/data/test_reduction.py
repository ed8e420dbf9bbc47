"""Inputs of super-resolution: keyed, of the right size, clean where asked."""

import numpy as np
import pytest
import torch

from rayface.configuration import from_dict, to_dict
from rayface.data.reduction import CLEAN, MILD, ReductionConfig, reduce, shrink
from rayface.errors import RayfaceError
from rayface.randomness import generator


def generators(*places: int) -> list[np.random.Generator]:
    return [generator(3, 0, place, "test") for place in places]


@pytest.fixture(scope="module")
def clear() -> torch.Tensor:
    rng = np.random.default_rng(5)
    coarse = torch.from_numpy(rng.uniform(-0.8, 0.8, (4, 3, 4, 5)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, size=(48, 64), mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("factor", [2, 4])
def test_sizes_range_and_levels(clear: torch.Tensor, factor: int) -> None:
    small = reduce(clear, factor, ReductionConfig(), generators(0, 1, 2, 3))
    assert small.shape == (4, 3, 48 // factor, 64 // factor)
    assert small.abs().max() <= 1
    levels = (small + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_each_sample_depends_on_its_own_generator_only(clear: torch.Tensor) -> None:
    together = reduce(clear, 2, ReductionConfig(), generators(0, 1, 2, 3))
    alone = reduce(clear[2:3], 2, ReductionConfig(), generators(2))
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(reduce(clear[2:3], 2, ReductionConfig(clean=0.0), generators(7)), alone)


def test_a_setting_changes_no_other_draw() -> None:
    """A generator stands at the same place afterwards, whatever was made of its draws."""
    picture = torch.zeros(1, 3, 8, 8)
    after = []
    for config in (CLEAN, MILD, ReductionConfig()):
        (random,) = generators(0)
        reduce(picture, 2, config, [random])
        after.append(random.random())
    assert len(set(after)) == 1


def test_clean_is_the_kernel_and_mild_is_a_little_worse(clear: torch.Tensor) -> None:
    clean = reduce(clear, 2, CLEAN, generators(0, 1, 2, 3))
    assert (clean - shrink(clear, 2, "bicubic").clamp(-1, 1)).abs().max() < 1.01 / 255
    mild = reduce(clear, 2, MILD, generators(0, 1, 2, 3))
    assert 2 / 255 < (mild - clean).abs().mean() < 14 / 255  # levels are 2 / 255 apart


def test_refusals(clear: torch.Tensor) -> None:
    with pytest.raises(RayfaceError, match="48 x 64 pictures cannot be made 5 times smaller"):
        reduce(clear, 5, CLEAN, generators(0, 1, 2, 3))
    for wrong in ({"noise": (0.2, 0.1)}, {"jpeg_quality": (0.0, 50.0)}, {"clean": float("nan")}, {"kernels": ("box",)}):
        with pytest.raises(RayfaceError, match=f"reduction: {next(iter(wrong))}"):
            ReductionConfig(**wrong)  # type: ignore[arg-type]


def test_configuration_is_data() -> None:
    assert from_dict(ReductionConfig, to_dict(MILD), "test") == MILD
