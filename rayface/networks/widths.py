"""Read and apply the channel counts of any network, so that a narrowed one can be stored and made again."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from rayface.networks.blocks import ChannelNorm

Widths = dict[str, list[int]]
# Parameter -> per dimension the indices that survive a cut; None: all of them.
Kept = Mapping[str, tuple[Tensor | None, ...]]


def read_widths(network: nn.Module) -> Widths:
    """`{layer name: [inputs, outputs]}` of every convolution and linear layer, `[channels]` of every norm and PReLU."""
    widths: Widths = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            widths[name] = [layer.in_channels, layer.out_channels]
        elif isinstance(layer, nn.Linear):
            widths[name] = [layer.in_features, layer.out_features]
        elif isinstance(layer, ChannelNorm | nn.PReLU):
            widths[name] = [layer.weight.numel()]
    return widths


def apply_widths(network: nn.Module, widths: Mapping[str, list[int]]) -> nn.Module:
    """Give every layer of a freshly built network the stored channel counts (weights are new); returns it."""
    for name, layer in list(network.named_modules()):
        if name not in widths or read_widths(layer).get("") == widths[name]:
            continue
        resized: nn.Module
        if isinstance(layer, nn.Conv2d):
            inputs, outputs = widths[name]
            groups = inputs if layer.groups > 1 else 1  # depthwise: as many groups as channels
            resized = type(layer)(
                inputs, outputs, layer.kernel_size, layer.stride, layer.padding, layer.dilation, groups,  # type: ignore[arg-type]
                layer.bias is not None, layer.padding_mode,
            )  # fmt: skip
        elif isinstance(layer, nn.Linear):
            inputs, outputs = widths[name]
            resized = nn.Linear(inputs, outputs, bias=layer.bias is not None)
        elif isinstance(layer, nn.PReLU):
            resized = nn.PReLU(*widths[name])
        else:
            resized = ChannelNorm(*widths[name])
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, resized.to(layer.weight.device))
    return network


def take(value: Tensor, kept: tuple[Tensor | None, ...] | None) -> Tensor:
    """A copy of the part of a parameter-shaped tensor that survives; `kept` holds the indices of each dimension."""
    for dimension, indices in enumerate(kept or ()):
        if indices is not None:
            value = value.index_select(dimension, indices.to(value.device))
    return value.detach().clone()


def cut(network: nn.Module, kept: Kept) -> nn.Module:
    """A physically smaller copy of the network, with the surviving entries of its parameters."""
    state = {name: take(value, kept.get(name)) for name, value in network.state_dict().items()}
    smaller = copy.deepcopy(network)
    widths = read_widths(smaller)
    for name, width in widths.items():
        weight = state[f"{name}.weight"]
        if len(width) == 1:
            width[0] = weight.numel()
        else:
            depthwise = getattr(smaller.get_submodule(name), "groups", 1) > 1
            width[:] = [weight.shape[0] if depthwise else weight.shape[1], weight.shape[0]]
    apply_widths(smaller, widths).load_state_dict(state)
    return smaller.train(network.training)
