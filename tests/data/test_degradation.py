import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rayface.configuration import from_dict, to_dict
from rayface.data.degradation import (
    PRESETS,
    TYPES,
    DegradationConfig,
    degrade,
    degrade_some,
    gaussian_blur,
    preset,
    severity_sets,
)
from rayface.errors import RayfaceError
from rayface.randomness import generator

OFF = DegradationConfig().with_strengths(0.0)


def crops(count: int, size: int = 160) -> torch.Tensor:
    """Smooth pictures with some fine detail, [count, 3, size, size] in [-1, 1]."""
    rng = np.random.default_rng(5)
    coarse = torch.from_numpy(rng.uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32))
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic")
    fine = torch.from_numpy(rng.normal(0, 0.15, (count, 3, size, size)).astype(np.float32))
    return (smooth + fine).clamp(-1, 1)


def generators(count: int, seed: int = 3) -> list[np.random.Generator]:
    return [generator(seed, 0, i, "test") for i in range(count)]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / ((a - b) ** 2).mean()))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_result_does_not_depend_on_the_batch(name):
    clear = crops(4)
    together = degrade(clear, preset(name), generators(4))
    alone = [degrade(clear[i : i + 1], preset(name), [generators(4)[i]])[0] for i in range(4)]
    assert torch.equal(together, torch.stack(alone))
    assert not torch.equal(together[0], clear[0])


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(16, 80),
    seed=st.integers(0, 2**31),
    strengths=st.fixed_dictionaries({name: st.floats(0, 2) for name in TYPES}),
    name=st.sampled_from(sorted(PRESETS)),
)
def test_shape_type_and_range_hold_for_any_strengths(size, seed, strengths, name):
    clear = crops(2, size)
    out = degrade(clear, preset(name).with_strengths(strengths), generators(2, seed))
    assert (out.shape, out.dtype) == (clear.shape, torch.float32)
    assert torch.isfinite(out).all()
    assert -1 <= out.min() <= out.max() <= 1


def test_a_share_is_degraded_whatever_else_is_in_the_batch():
    clear = crops(12, 32)
    kept = clear.clone()
    half = degrade_some(clear, 0.5, generators(12))
    assert torch.equal(clear, kept), "the input was written to"
    same = (half == clear).flatten(1).all(1)
    assert same.any()
    assert not same.all()
    parts = [degrade_some(clear[i : i + 1], 0.5, generators(12)[i : i + 1]) for i in range(12)]
    assert torch.equal(torch.cat(parts), half)
    assert torch.equal(degrade_some(clear, 0.0, generators(12)), clear)
    drawn = generators(12)
    for random in drawn:
        random.random()
    assert torch.equal(degrade_some(clear, 1.0, generators(12)), degrade(clear, DegradationConfig(), drawn))


def test_zero_strength_is_the_identity():
    clear = crops(3)
    assert torch.equal(degrade(clear, OFF, generators(3)), clear)


@pytest.mark.parametrize("name", TYPES)
def test_each_type_alone_changes_the_picture_and_hardens_with_its_strength(name):
    clear = crops(24)
    scores = []
    for strength in (0.25, 0.5, 1.0, 2.0):
        config = OFF.with_strengths({name: strength})
        scores.append(psnr(degrade(clear, config, generators(24)), clear))
    assert scores[0] < 60
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 1


def test_presets_are_ordered_and_quality_falls_with_strength():
    clear = crops(24)
    means = {name: psnr(degrade(clear, config, generators(24)), clear) for name, config in PRESETS.items()}
    assert means["easy"] > means["medium"] > means["hard"]
    by_strength = [psnr(degrade(clear, PRESETS["easy"].with_strengths(s), generators(24)), clear) for s in (0.2, 1, 2)]
    assert by_strength[0] > by_strength[1] > by_strength[2]


def test_colour_jitter_shifts_whole_channels_with_its_probability():
    clear = torch.zeros(200, 3, 16, 16)
    out = degrade(clear, OFF.with_strengths({"colour": 1.0}), generators(200))
    shifts = out.mean(dim=(2, 3))
    assert torch.allclose(out, shifts[:, :, None, None].expand_as(out), atol=1e-6)
    assert shifts.abs().max() <= 2 * 20 / 255 + 1e-6
    share = (shifts.abs().amax(1) > 0).float().mean()
    assert 0.2 < share < 0.4


def test_noise_has_the_drawn_deviation():
    config = DegradationConfig(noise=(0.1, 0.1)).with_strengths({**dict.fromkeys(TYPES, 0.0), "noise": 1.0})
    out = degrade(torch.zeros(2, 3, 128, 128), config, generators(2))
    assert float((out / 2).std()) == pytest.approx(0.1, rel=0.02)
    assert not torch.equal(out[0], out[1])


@settings(max_examples=20, deadline=None)
@given(s0=st.floats(0.3, 4), s1=st.floats(0.3, 4), angle=st.floats(-3.2, 3.2), radius=st.integers(1, 8))
def test_blur_equals_a_direct_convolution(s0, s1, angle, radius):
    x = torch.from_numpy(np.random.default_rng(1).random((3, 23, 31), np.float32))
    got = gaussian_blur(x, (s0, s1), angle, kernel=2 * radius + 1)
    r = min(radius, math.ceil(3 * max(s0, s1)))
    yy, xx = np.mgrid[-r : r + 1, -r : r + 1]
    u, v = xx * np.cos(angle) + yy * np.sin(angle), -xx * np.sin(angle) + yy * np.cos(angle)
    weights = np.exp(-(u**2) / (2 * s0**2) - v**2 / (2 * s1**2))
    kernel = torch.from_numpy((weights / weights.sum()).astype(np.float32))[None, None]
    want = F.conv2d(F.pad(x[:, None], (r, r, r, r), mode="reflect"), kernel)[:, 0]
    assert torch.allclose(got, want, atol=1e-5)


def test_severity_sets_are_pinned():
    clear = crops(2)
    first = {n: degrade(clear, c, g) for n, (c, g) in severity_sets([7, 9]).items()}
    again = {n: degrade(clear, c, g) for n, (c, g) in severity_sets([7, 9]).items()}
    swapped = {n: degrade(clear.flip(0), c, g).flip(0) for n, (c, g) in severity_sets([9, 7]).items()}
    assert list(first) == ["easy", "medium", "hard"]
    for name in first:
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], swapped[name])


def test_config_survives_json_and_refuses_nonsense():
    config = PRESETS["hard"].with_strengths({"jpeg": 1.5, "blur": 9.0})
    assert config.blur_strength == 2.0
    assert from_dict(DegradationConfig, json.loads(json.dumps(to_dict(config)))) == config
    for bad in ({"jpeg_quality": (80.0, 30.0)}, {"noise": (-0.1, 0.1)}, {"blur_strength": math.nan}):
        with pytest.raises(RayfaceError, match=next(iter(bad))):
            DegradationConfig(**bad)
    with pytest.raises(RayfaceError, match="fog"):
        config.with_strengths({"fog": 1.0})
    with pytest.raises(RayfaceError, match="fog"):
        from_dict(DegradationConfig, {"fog": 1.0})
    with pytest.raises(RayfaceError, match="harder"):
        preset("harder")


def test_wrong_shapes_are_refused():
    with pytest.raises(RayfaceError, match="32, 16"):
        degrade(torch.zeros(1, 3, 32, 16), DegradationConfig(), generators(1))
    with pytest.raises(RayfaceError, match="2 generators"):
        degrade(crops(1), DegradationConfig(), generators(2))
