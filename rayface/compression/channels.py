"""Which channels of a network belong together, and the network without some of them (SPEC C2), by torch-pruning.

Layers that are added to one another must keep the same channels, so what can be removed are channels of a *group* of
layers. The dependency graph finds them (Fang et al. 2023, "DepGraph"); nothing here knows any network's structure.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.networks.blocks import ChannelNorm
from rayface.networks.widths import Kept


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together, named by the first layer (in the network's order) that makes them."""

    name: str
    channels: int
    producers: tuple[str, ...]  # layers with these output channels
    consumers: tuple[str, ...]  # layers with these input channels


class _NormPruning(tp.BasePruningFunc):
    """ChannelNorm has one gain a channel; torch-pruning does not know it."""

    def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        removed = set(idxs)
        kept = [index for index in range(layer.weight.numel()) if index not in removed]  # type: ignore[operator]
        layer.weight = nn.Parameter(layer.weight.detach()[kept])  # type: ignore[operator]
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        return int(layer.weight.numel())  # type: ignore[operator]

    prune_in_channels = prune_out_channels
    get_in_channels = get_out_channels


def _graph(network: nn.Module, example: Tensor) -> Any:
    pruners = {ChannelNorm: _NormPruning()}
    return tp.DependencyGraph().build_dependency(network, example, customized_pruners=pruners, verbose=False)


def _groups(graph: Any, network: nn.Module) -> dict[str, Any]:
    """torch-pruning's groups by the name of their first producing layer, in the network's order."""
    order = {name: index for index, (name, _) in enumerate(network.named_modules())}
    found = {}
    for group in graph.get_all_groups():
        producers = _layers(graph, group)[0]
        found[min(producers, key=order.__getitem__)] = group
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


def _layers(graph: Any, group: Any) -> tuple[list[str], list[str]]:
    """Names of the layers whose outputs, and of those whose inputs, are the group's channels."""
    producers: list[str] = []
    consumers: list[str] = []
    for dependency, _ in group:
        module = dependency.target.module
        if isinstance(module, nn.Conv2d | nn.Linear):
            made = graph.is_out_channel_pruning_fn(dependency.handler)
            (producers if made else consumers).append(graph.module2node[module].name.split(" ")[0])
    return producers, consumers


def channel_groups(network: nn.Module, example: Tensor) -> list[ChannelGroup]:
    """The groups whose channels can be removed without changing the shape of what the network gives.

    Left out are the outputs, and layers that make a group's channels in parts (concatenations).

    Args:
        example: float [N, 3, H, W], a batch the network takes; a small one is enough.
    """
    network = copy.deepcopy(network).eval().requires_grad_(True)
    graph = _graph(network, example)
    found = []
    for name, group in _groups(graph, network).items():
        producers, consumers = _layers(graph, group)
        channels = len(group[0].idxs)
        whole = all(_outputs(network.get_submodule(producer)) == channels for producer in producers)
        if channels > 1 and consumers and whole:
            found.append(ChannelGroup(name, channels, tuple(producers), tuple(consumers)))
    names = [group.name for group in found]
    if not _free(network, names, example):
        found = [group for group in found if _free(network, [group.name], example)]
    return found


def _outputs(layer: nn.Module) -> int:
    return int(layer.weight.shape[0])  # type: ignore[index]


def _free(network: nn.Module, names: list[str], example: Tensor) -> bool:
    """Whether the outputs keep their shapes when a channel of each of these groups goes."""
    trial = copy.deepcopy(network)
    groups = _groups(_graph(trial, example), trial)
    try:
        for name in names:
            groups[name].prune(idxs=[0])
        return _shapes(trial, example) == _shapes(network, example)
    except RuntimeError:  # a pixel shuffle whose channels no longer divide
        return False


@torch.no_grad()
def _shapes(network: nn.Module, example: Tensor) -> list[torch.Size]:
    given = network(example)
    return [tensor.shape for tensor in (given if isinstance(given, list | tuple) else [given])]


def surviving(network: nn.Module, example: Tensor, ratios: Mapping[str, float], round_to: int = 8) -> Kept:
    """Which entries of a network's parameters survive when channels go; `networks.widths.cut` removes the others.

    Of each group the channels with the smallest weights go (group magnitude: the norm of a channel's weights in all
    coupled layers, relative to the others of the layer).

    Args:
        example: float [N, 3, H, W], a batch the network takes; a small one is enough.
        ratios: share of the channels to remove, in [0, 1), by group name; groups without one keep all.
        round_to: what is left is a multiple of it (rounded up, and never less than one multiple), or all.

    Raises RayfaceError for a group that the network lacks and for a ratio outside [0, 1).
    """
    known = {group.name for group in channel_groups(network, example)}
    for name, ratio in ratios.items():
        if name not in known:
            raise RayfaceError(f"pruning: no group {name!r} in this network; known: {', '.join(sorted(known))}")
        if not 0 <= ratio < 1:
            raise RayfaceError(
                f"pruning: the ratio of {name} is {ratio}; give a share of its channels from 0 to below 1"
            )
    trial = copy.deepcopy(network).eval().requires_grad_(True)
    graph = _graph(trial, example)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    places = _Places(trial)
    for name, group in _groups(graph, trial).items():
        channels = len(group[0].idxs)
        left = remaining(channels, ratios.get(name, 0.0), round_to)
        if left < channels:
            weakest = torch.argsort(importance(group), stable=True)[: channels - left]
            places.remove(graph, group, weakest.sort().values.tolist())
    return places.kept()


def remaining(channels: int, ratio: float, round_to: int = 8) -> int:
    """How many of so many channels are left without the share `ratio` of them."""
    left = math.ceil(round(channels * (1 - ratio), 6) / round_to) * round_to
    return min(channels, max(left, round_to))


class _Places:
    """Where the entries of each parameter came from, while torch-pruning removes some."""

    def __init__(self, network: nn.Module) -> None:
        self.names = {module: name for name, module in network.named_modules()}
        self.before = {name: parameter.shape for name, parameter in network.named_parameters()}
        self.places = {name: [torch.arange(length) for length in shape] for name, shape in self.before.items()}

    def remove(self, graph: Any, group: Any, channels: list[int]) -> None:
        """Remove channels of a group (indices in its first layer) from the network, and their places here."""
        whole = graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, channels)
        for dependency, indices in whole:
            module = dependency.target.module
            if module in self.names:
                self._drop(module, graph.is_out_channel_pruning_fn(dependency.handler), indices)
        whole.prune()

    def _drop(self, module: nn.Module, outputs: bool, removed: list[int]) -> None:
        """An output channel is an entry of every parameter's first dimension, an input one of the weight's second."""
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        inputs_only = isinstance(module, nn.Conv2d | nn.Linear) and not outputs and not depthwise
        for parameter, _ in module.named_parameters(recurse=False):
            if inputs_only and parameter == "bias":
                continue
            places, dimension = self.places[f"{self.names[module]}.{parameter}"], int(inputs_only)
            gone = torch.zeros(len(places[dimension]), dtype=torch.bool)
            gone[list(removed)] = True
            places[dimension] = places[dimension][~gone]

    def kept(self) -> Kept:
        return {
            name: tuple(
                None if len(left) == length else left for left, length in zip(places, self.before[name], strict=True)
            )
            for name, places in self.places.items()
        }
