"""Channel groups of real networks, and what is left when channels go."""

import pytest
import torch
from torch import Tensor, nn

from rayface.compression.channels import channel_groups, remaining, surviving
from rayface.errors import RayfaceError
from rayface.networks.enhancer import Enhancer, EnhancerConfig
from rayface.networks.parser import Parser, ParserConfig
from rayface.networks.recogniser import Recogniser, RecogniserConfig
from rayface.networks.upscaler import Upscaler, UpscalerConfig
from rayface.networks.widths import apply_widths, cut, read_widths, take


def enhancer() -> Enhancer:
    torch.manual_seed(0)
    network = Enhancer(EnhancerConfig(widths=(16, 24, 32), style_dim=16))
    nn.init.normal_(network.generator.to_rgb.weight, std=0.1)
    return network


NETWORKS = {
    "enhancer": (enhancer, 64),
    "parser": (lambda: Parser(ParserConfig(widths=(16, 24, 32))), 64),
    "recogniser": (lambda: Recogniser(RecogniserConfig()), 256),
    "upscaler": (lambda: Upscaler(UpscalerConfig()), 32),
}


def first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def test_the_groups_of_the_enhancer() -> None:
    groups = {group.name: group for group in channel_groups(enhancer(), torch.randn(1, 3, 64, 64))}
    levels = 3
    assert len(groups) == 3 * levels + 2  # of each level what is added up, two hidden widths; the mapping's two layers
    top = groups["encoder.stem"]
    assert top.channels == 16
    assert set(top.producers) == {
        "encoder.stem", "encoder.levels.0.0.conv2", "generator.levels.0.0.scale", "generator.levels.0.0.conv2",
        "generator.ups.0.conv",
    }  # fmt: skip
    made = [layer for group in groups.values() for layer in group.producers]
    assert len(made) == len(set(made))
    convolutions = {name for name, layer in enhancer().named_modules() if isinstance(layer, nn.Conv2d)}
    assert convolutions - set(made) == {"generator.to_rgb"}  # of every convolution but the output (SPEC C2)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_the_channels_of_every_group(name: str) -> None:
    make, side = NETWORKS[name]
    network, example = make().eval(), torch.randn(2, 3, side, side)
    groups = channel_groups(network, example)
    kept = surviving(network, example, {group.name: 0.5 for group in groups})
    smaller = cut(network, kept)
    assert sum(p.numel() for p in smaller.parameters()) < 0.6 * sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        assert first(smaller(example)).shape == first(network(example)).shape
    widths = read_widths(smaller)
    for group in groups:
        for layer in group.producers:
            assert widths[layer][1] == remaining(group.channels, 0.5)
    for parameter, value in smaller.named_parameters():
        assert torch.equal(value, take(network.state_dict()[parameter], kept[parameter]))
    # as the store keeps it: widths and weights alone make it again
    again = apply_widths(make(), widths)
    again.load_state_dict(smaller.state_dict())
    with torch.no_grad():
        assert torch.equal(first(again.eval()(example)), first(smaller(example)))


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_without_weight_are_not_missed(name: str) -> None:
    """Of a group's channels that do nothing as many go as may; the network gives what it gave."""
    make, side = NETWORKS[name]
    network, example = make().eval(), torch.randn(1, 3, side, side)
    hidden = next(group for group in channel_groups(network, example) if group.name.endswith("conv1"))
    half = hidden.channels // 2
    with torch.no_grad():
        for consumer in hidden.consumers:
            network.get_submodule(consumer).weight[:, :half] = 0  # type: ignore[index, operator]
        for producer in hidden.producers:
            layer = network.get_submodule(producer)
            layer.weight[:half] = 0  # type: ignore[index, operator]
            layer.bias[:half] = 0  # type: ignore[index, operator]
    kept = surviving(network, example, {hidden.name: 0.5}, round_to=1)
    places = kept[f"{hidden.producers[0]}.weight"][0]
    assert places is not None
    assert places.tolist() == list(range(half, hidden.channels))


def test_nothing_asked_changes_nothing() -> None:
    network, example = enhancer().eval(), torch.randn(1, 3, 64, 64)
    kept = surviving(network, example, {})
    assert all(places is None for dimensions in kept.values() for places in dimensions)
    with torch.no_grad():
        assert torch.equal(cut(network, kept)(example), network(example))


@pytest.mark.parametrize(
    ("channels", "ratio", "round_to", "left"),
    [(32, 0.5, 8, 16), (32, 0.6, 8, 16), (32, 0.99, 8, 8), (10, 0.5, 8, 8), (6, 0.5, 8, 6), (96, 0.25, 8, 72),
     (7, 0.5, 1, 4), (160, 0.3, 8, 112), (32, 0.0, 8, 32)],
)  # fmt: skip
def test_what_is_left_is_a_multiple_of_eight(channels: int, ratio: float, round_to: int, left: int) -> None:
    assert remaining(channels, ratio, round_to) == left


def test_what_cannot_be_removed_is_said() -> None:
    network, example = enhancer(), torch.randn(1, 3, 64, 64)
    with pytest.raises(RayfaceError, match=r"no group 'generator\.to_rgb'.*known: encoder"):
        surviving(network, example, {"generator.to_rgb": 0.5})
    with pytest.raises(RayfaceError, match=r"ratio of encoder\.stem is 1\.0"):
        surviving(network, example, {"encoder.stem": 1.0})
