"""Adaptive degradation: factors from the discriminator's means, strengths from the factors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayface.data.adaptation import AdaptationConfig, adapt, observations, remember, strengths
from rayface.data.degradation import PRESETS, TYPES, DegradationConfig, degrade, degrade_measured
from rayface.errors import RayfaceError
from rayface.randomness import generator

CONFIG = AdaptationConfig(every=10, low=0.4, high=0.7, least=0.25, most=2.0)


def round_of(clear: float, enhanced: float, degraded: float, severity: torch.Tensor | None = None) -> dict[str, float]:
    """A controller after a step in which all pictures had these values."""
    severity = torch.ones(4, len(TYPES)) if severity is None else severity
    values = {"clear": clear, "enhanced": enhanced, "degraded": degraded}
    means = observations(severity, {name: torch.full((len(severity),), value) for name, value in values.items()})
    controller: dict[str, float] = {}
    remember(controller, {name: float(value) for name, value in means.items()})
    return controller


@pytest.mark.parametrize(("enhanced", "change"), [(0.9, 1.1), (0.5, 1.0), (0.1, 1 / 1.1)])
def test_easy_types_harden_and_hard_ones_ease(enhanced: float, change: float) -> None:
    controller = round_of(2.0, 2 * enhanced - 2 * (1 - enhanced), -2.0)
    adapt(controller, CONFIG, DegradationConfig())
    assert controller["factor/all"] == pytest.approx(enhanced)
    for kind in TYPES:
        assert controller[f"strength/{kind}"] == pytest.approx(change)
    assert not any(name.startswith("sum/") for name in controller)


def test_each_type_is_judged_by_the_pictures_it_acts_on() -> None:
    severity = torch.zeros(4, len(TYPES))
    severity[:2, TYPES.index("blur")] = 1.0  # blurred pictures are mastered
    severity[2:, TYPES.index("noise")] = 1.0  # noisy ones are not
    values = {
        "clear": torch.full((4,), 1.0),
        "enhanced": torch.tensor([0.9, 0.9, -0.9, -0.9]),
        "degraded": torch.full((4,), -1.0),
    }
    controller: dict[str, float] = {}
    remember(controller, {name: float(value) for name, value in observations(severity, values).items()})
    adapt(controller, CONFIG, DegradationConfig())
    assert controller["factor/blur"] == pytest.approx(0.95)
    assert controller["factor/noise"] == pytest.approx(0.05)
    now = strengths(controller, DegradationConfig())
    assert now["blur"] > 1 > now["noise"]
    assert now["jpeg"] == 1.0  # it acted on none: nothing is known
    assert "factor/jpeg" not in controller


def test_ranks_average_to_the_whole_batch() -> None:
    torch.manual_seed(0)
    severity = torch.rand(6, len(TYPES))
    values = {name: torch.randn(6) for name in ("clear", "enhanced", "degraded")}
    whole = observations(severity, values)
    parts = [observations(severity[half], {n: v[half] for n, v in values.items()}) for half in (slice(3), slice(3, 6))]
    for name, value in whole.items():
        assert float((parts[0][name] + parts[1][name]) / 2) == pytest.approx(float(value), abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.integers(1, 60))
def test_strengths_stay_in_their_bounds(values: list[float], rounds: int) -> None:
    controller: dict[str, float] = {}
    for _ in range(rounds):
        controller |= round_of(*values)
        adapt(controller, CONFIG, DegradationConfig())
        assert all(CONFIG.least <= controller[f"strength/{kind}"] <= CONFIG.most for kind in TYPES)


@pytest.mark.parametrize(("enhanced", "strength", "becomes"), [(0.9, 1.9, 1.9), (0.5, 1.9, 1.9), (0.1, 0.5, 0.5)])
def test_a_strength_beyond_the_bounds_stays_where_it_was_set(enhanced: float, strength: float, becomes: float) -> None:
    controller = round_of(2.0, 2 * enhanced - 2 * (1 - enhanced), -2.0)
    config = AdaptationConfig(every=10, low=0.4, high=0.7, least=1.0, most=1.3)
    adapt(controller, config, DegradationConfig().with_strengths({"blur": strength}))
    assert controller["strength/blur"] == pytest.approx(becomes)


def test_a_discriminator_that_cannot_tell_changes_nothing() -> None:
    controller = round_of(0.05, 0.04, 0.0)
    adapt(controller, CONFIG, DegradationConfig().with_strengths({"jpeg": 1.5}))
    assert strengths(controller, DegradationConfig())["jpeg"] == 1.5
    assert not any(name.startswith("factor/") for name in controller)


def test_a_type_that_is_off_stays_off() -> None:
    controller = round_of(1.0, 1.0, -1.0)
    adapt(controller, CONFIG, DegradationConfig().with_strengths({"colour": 0.0}))
    assert controller["strength/colour"] == 0.0


def test_severity_follows_the_strength_and_the_ranges() -> None:
    clear = torch.rand(24, 3, 64, 64) * 2 - 1

    def severity(config: DegradationConfig) -> torch.Tensor:
        return degrade_measured(clear, config, [generator(1, 0, i, "test") for i in range(24)])[1]

    medium = severity(DegradationConfig())
    assert medium.shape == (24, len(TYPES))
    assert float(medium.min()) >= 0
    assert float(medium.max()) <= 1.01
    assert (severity(PRESETS["hard"])[:, TYPES.index("jpeg")] >= medium[:, TYPES.index("jpeg")]).all()
    for index, kind in enumerate(TYPES):
        off = severity(DegradationConfig().with_strengths({kind: 0.0}))
        assert float(off[:, index].abs().max()) == 0
        others = [i for i in range(len(TYPES)) if i != index]
        assert torch.equal(off[:, others], medium[:, others])
    again = degrade(clear, DegradationConfig(), [generator(1, 0, i, "test") for i in range(24)])
    same, _ = degrade_measured(clear, DegradationConfig(), [generator(1, 0, i, "test") for i in range(24)])
    assert np.array_equal(again.numpy(), same.numpy())


@pytest.mark.parametrize(
    "wrong", [{"every": -1}, {"low": 0.8}, {"gain": 0.0}, {"most": 3.0}, {"least": 0.0}, {"margin": 0.0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RayfaceError, match=f"{next(iter(wrong))}="):
        AdaptationConfig(**wrong)  # type: ignore[arg-type]
