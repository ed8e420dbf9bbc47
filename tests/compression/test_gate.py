"""The read-out of layers, the gate over ratios, its settings, its trail."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rayface.compression.gate import reduce_channels
from rayface.compression.readout import layer_scores
from rayface.compression.refit import refit
from rayface.compression.settings import PruningConfig
from rayface.compression.trail import outcome, trail_picture
from rayface.errors import RayfaceError
from rayface.imaging.codec import decode
from rayface.networks.enhancer import Enhancer, EnhancerConfig
from rayface.networks.widths import cut


def photos(count: int = 8, side: int = 32) -> torch.Tensor:
    torch.manual_seed(1)
    coarse = torch.rand(count, 3, 5, 5) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)


class Copies(nn.Module):
    """Three convolutions: the first hands the picture on, the second its mean colour, the third nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.grey, self.nothing = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1), nn.Conv2d(1, 4, 1)
        with torch.no_grad():
            self.whole.weight.copy_(torch.eye(3)[:, :, None, None] * 7)  # whatever the scale
            self.grey.weight.fill_(1 / 3)
            self.nothing.weight.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nothing(self.grey(self.whole(x)))


def test_a_layer_scores_by_what_it_knows() -> None:
    clear = photos()
    scores = layer_scores(Copies(), clear, clear)
    assert list(scores) == ["whole", "grey", "nothing"]
    assert scores["whole"] > scores["grey"] + 5 > scores["nothing"] + 5
    spread = float(clear[4:].sub(clear[:4].mean((0, 2, 3), keepdim=True)).square().mean())
    nothing = 10 * torch.log10(torch.tensor(float(clear.max() - clear.min()) ** 2 / spread))
    assert scores["nothing"] == pytest.approx(float(nothing), abs=0.05)  # reads the mean of the other photos
    vectors = clear.mean((2, 3))
    assert layer_scores(Copies(), clear, vectors)["whole"] > layer_scores(Copies(), clear, vectors)["nothing"] + 10


def network() -> Enhancer:
    torch.manual_seed(0)
    made = Enhancer(EnhancerConfig(widths=(16, 32), style_dim=16))
    nn.init.normal_(made.generator.to_rgb.weight, std=0.1)
    return made


def test_the_gate_gives_back_what_layers_need() -> None:
    clear = photos()
    open_config = PruningConfig(rounds=1, ratio=0.5, round_to=4, tolerance=99)
    kept, trail = reduce_channels(network(), clear, clear, open_config, 1)
    assert all(line["left"] == line["channels"] // 2 for line in trail)
    failing = {line["group"] for line in trail if line["score"] < line["score_before"] - 1}
    assert failing, "with half of all channels gone some layer must know less"

    for attempts in (1, 4):
        config = PruningConfig(rounds=1, ratio=0.5, round_to=4, attempts=attempts)
        gated, gated_trail = reduce_channels(network(), clear, clear, config, 1)
        assert {line["group"] for line in gated_trail if line["kept"] < line["asked"]} >= failing
        assert all(line["verdict"] == "passes" or line["kept"] == 0 for line in gated_trail)
        for line in gated_trail:
            survivors = gated[f"{line['layer']}.weight"][0]
            assert line["left"] == (line["channels"] if survivors is None else len(survivors)), "the trail tells it"
        sizes = [sum(p.numel() for p in cut(network(), k).parameters()) for k in (kept, gated, {})]
        assert sizes[0] < sizes[1] <= sizes[2]
    convolutions = {name for name, layer in network().named_modules() if isinstance(layer, nn.Conv2d)}
    assert {line["layer"] for line in gated_trail} == convolutions - {"generator.to_rgb"}


def test_fitted_layers_give_more_of_what_the_whole_network_gave() -> None:
    torch.manual_seed(0)
    wide, inputs = network().eval(), photos(16)
    kept, _ = reduce_channels(wide, inputs, inputs, PruningConfig(rounds=1, ratio=0.5, round_to=4, gate=False), 1)
    plain, fitted = cut(wide, kept), cut(wide, kept)
    refit(fitted, wide, kept, inputs[:8])
    assert not fitted.training

    def error(narrow: nn.Module) -> float:
        with torch.no_grad():
            return float((narrow(inputs[8:]) - wide(inputs[8:])).square().mean())

    assert error(fitted) < 0.7 * error(plain), "on photos that nothing was fitted on"
    whole = cut(wide, {})
    refit(whole, wide, {}, inputs)
    for (name, ours), theirs in zip(whole.named_parameters(), wide.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4), f"{name}: nothing was cut, nothing is to be fitted"


def test_a_tolerance_that_nothing_fails_keeps_every_ratio() -> None:
    clear = photos()
    _, trail = reduce_channels(network(), clear, clear, PruningConfig(rounds=1, ratio=0.25, tolerance=99), 3)
    assert {line["verdict"] for line in trail} == {"passes"}
    assert {line["round"] for line in trail} == {3}
    assert all(line["kept"] == line["asked"] == 0.25 for line in trail)
    assert json.loads(json.dumps(trail)) == trail


def test_without_the_gate_nothing_is_scored() -> None:
    config = PruningConfig(rounds=1, ratio=0.5, round_to=4, gate=False)
    _, trail = reduce_channels(network(), photos(), photos(), config, 1)
    assert {line["score"] for line in trail} == {line["verdict"] for line in trail} == {None}
    assert all(line["left"] == line["channels"] // 2 for line in trail)
    assert trail_picture(trail).startswith(b"\x89PNG")


def test_the_longest_name_decides_a_ratio() -> None:
    config = PruningConfig(ratio=0.1, ratios=("encoder:0.3", "encoder.stem:0.5"))
    groups = ("encoder.stem", "encoder.levels.0.0.conv1", "mapping.layers.0")
    assert config.asked(groups) == dict(zip(groups, (0.5, 0.3, 0.1), strict=True))
    with pytest.raises(RayfaceError, match=r"no group begins with 'decoder'; there are: encoder\.stem"):
        PruningConfig(ratios=("decoder:0.3",)).asked(groups)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, "ratio of all is 1.0"),
        ({"ratios": ("encoder",)}, "'encoder' is not NAME:RATIO"),
        ({"ratios": ("encoder:much",)}, "'encoder:much' is not NAME:RATIO"),
        ({"ratios": ("encoder:-1",)}, "ratio encoder is -1.0"),
        ({"every": 0}, "pruning.every=0"),
        ({"photos": 1}, "pruning.photos=1"),
        ({"tolerance": float("nan")}, "pruning.tolerance=nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        PruningConfig(**settings)  # type: ignore[arg-type]


def test_rounds_are_due_after_as_many_steps() -> None:
    config = PruningConfig(rounds=2, every=10)
    assert [step for step in range(50) if config.due(step)] == [10, 20]
    assert not any(PruningConfig(every=10).due(step) for step in range(50))


def test_the_picture_of_a_trail(tmp_path: Path) -> None:
    clear = photos()
    _, trail = reduce_channels(network(), clear, clear, PruningConfig(rounds=1, ratio=0.5, round_to=4), 1)
    assert {outcome(line) for line in trail} <= {"as asked", "lowered", "nothing"}
    picture = decode(trail_picture([*trail, *({**line, "round": 2} for line in trail)]))
    assert picture.shape[2] > picture.shape[1] / 2
    assert picture.float().std() > 5
