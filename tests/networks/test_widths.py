"""Widths of every kind of layer that rayface's networks have, read and applied."""

import pytest
import torch
from torch import nn

from rayface.networks.attribute_classifier import AttributeClassifier, AttributeClassifierConfig
from rayface.networks.mtcnn import Mtcnn, ProposalNet
from rayface.networks.widths import apply_widths, read_widths
from rayface.systems.base import SYSTEMS, get_system


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_released_network_is_made_again_from_its_widths(name: str) -> None:
    system = get_system(name)
    config = system.config("tiny")
    for key, network in system.build(config).items():
        widths = read_widths(network)
        again = apply_widths(system.build(config)[key], widths)
        again.load_state_dict(network.state_dict())


def test_a_narrowed_inverted_residual_stays_depthwise() -> None:
    """And keeps its padding, which is not PyTorch's."""
    network = AttributeClassifier(AttributeClassifierConfig())
    block = next(name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1)
    block = block.rpartition(".")[0]
    before = network.get_submodule(f"{block}.depthwise")
    widths = read_widths(network)
    inputs, _ = widths[f"{block}.depthwise"]
    hidden = inputs // 2
    if f"{block}.expand" in widths:
        widths[f"{block}.expand"][1] = hidden
    else:
        hidden = inputs
    widths[f"{block}.depthwise"] = [hidden, hidden]
    widths[f"{block}.project"][0] = hidden
    apply_widths(network, widths)
    after = network.get_submodule(f"{block}.depthwise")
    assert type(after) is type(before)
    assert (after.groups, after.stride) == (hidden, before.stride)
    assert read_widths(network) == widths


def test_a_narrowed_proposal_net_runs() -> None:
    network = Mtcnn().proposal
    assert isinstance(network, ProposalNet)
    widths = read_widths(network)
    widths["features.0"][1], widths["features.1"], widths["features.3"][0] = 6, [6], 6
    narrow = apply_widths(network, widths)
    assert read_widths(narrow) == widths
    assert all(torch.isfinite(output).all() for output in narrow(torch.rand(1, 3, 24, 24)))
