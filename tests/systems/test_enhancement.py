"""What is enhancement's own: which degradation a picture gets, its losses, settings that make no sense."""

import pytest
import torch

from rayface.data.degradation import PRESETS, DegradationConfig
from rayface.errors import RayfaceError
from rayface.randomness import generator
from rayface.systems.base import PhaseState, get_system, resolve_config
from rayface.systems.enhancement import Enhancement
from rayface.systems.losses import laplacian_bands


def test_shares_of_severities() -> None:
    config = resolve_config(Enhancement(), "tiny", ["easy_share=0.25", "hard_share=0.5"])
    draws = [generator(0, 0, index, "shares").random() for index in range(400)]
    chosen = [Enhancement._degradation(config, draw) for draw in draws]
    assert chosen.count(PRESETS["easy"]) == pytest.approx(100, abs=25)
    assert chosen.count(PRESETS["hard"]) == pytest.approx(200, abs=30)


def test_a_search_changes_the_strengths_of_every_severity() -> None:
    config = resolve_config(Enhancement(), "tiny", ["degradation.noise_strength=0.5"])
    for draw in (0.0, config.easy_share, 0.99):
        assert Enhancement._degradation(config, draw).noise_strength == 0.5


def test_without_degradation_the_input_is_the_clear_picture() -> None:
    off = [f"degradation.{name}_strength=0" for name in DegradationConfig().strengths]
    config = resolve_config(Enhancement(), "tiny", off)
    crops = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    batch = Enhancement().prepare({"image": crops}, config, [generator(0, 0, i, "off") for i in range(4)])
    assert torch.equal(batch["clear"], batch["degraded"])


@pytest.mark.parametrize("shares", [("-0.1", "0.2"), ("0.6", "0.5"), ("nan", "0")])
def test_shares_that_make_no_sense(shares: tuple[str, str]) -> None:
    with pytest.raises(RayfaceError, match="easy_share"):
        resolve_config(Enhancement(), "tiny", [f"easy_share={shares[0]}", f"hard_share={shares[1]}"])


def test_laplacian_bands_hold_what_smoothing_takes_away() -> None:
    images = torch.randn(2, 3, 32, 32)
    bands = laplacian_bands(images)
    assert [band.shape[-1] for band in bands] == [32, 16, 8]
    assert torch.allclose(laplacian_bands(torch.full((1, 3, 32, 32), 0.3))[0], torch.zeros(1), atol=1e-6)


class Stages(torch.nn.Module):
    """A frozen image network of two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = torch.nn.ModuleList([torch.nn.Conv2d(3, 8, 3, 2), torch.nn.Conv2d(8, 8, 3, 2)])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for stage in self.stages:
            images = torch.relu(stage(images))
            features.append(images)
        return features


def test_the_perceptual_term_is_counted_with_its_weight() -> None:
    torch.manual_seed(0)
    system = get_system("enhancement")
    settings = ["perceptual_network=some-model", "losses.perceptual=3", "losses.adversarial=0"]
    config = resolve_config(system, "tiny", settings)
    assert system.frozen_models(config) == {"perceptual_network": "some-model"}
    networks = system.build(config)
    batch = {name: torch.rand(2, 3, 64, 64) * 2 - 1 for name in ("clear", "degraded")}
    frozen = {"perceptual_network": Stages().requires_grad_(False)}
    loss = system.phases(config)[0].loss
    total, terms = loss(batch, networks, PhaseState(config, 0, frozen))
    assert total.item() == pytest.approx((terms["pixel"] + terms["detail"] + 3 * terms["perceptual"]).item())
    total.backward()
    assert next(networks["enhancer"].parameters()).grad is not None
