"""The parameters adjusted to fewer channels (SPEC C2): every convolution is fitted anew to what it gave before the cut.

In the order in which they run, each convolution of the narrowed network gets the weights with which, from the inputs
that it now has, it comes closest to the outputs of the wide network in the channels that are left: a ridge regression
towards the old weights on sampled places of some photos (as He et al. 2017, "Channel Pruning for Accelerating Very
Deep Neural Networks", do). Training goes on from there instead of repairing first.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.compression.readout import ridge
from rayface.networks.widths import Kept

PLACES = 8192  # samples of a layer, over all photos
AT_ONCE = 8  # photos


class _Reached(Exception):
    """Ends a forward pass whose rest is not needed."""


@torch.no_grad()
def refit(narrow: nn.Module, wide: nn.Module, kept: Kept, inputs: Tensor) -> None:
    """Fit the convolutions of `narrow`, which is `wide` cut to `kept`, in place; layers of groups stay as they are.

    Args:
        inputs: float [N, 3, S, S], what the networks take, where they lie.
    """
    with _evaluating(narrow), _evaluating(wide):
        wanted = _outputs(wide, inputs)
        for name, (places, target) in wanted.items():
            layer = narrow.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            survivors = kept.get(name + ".weight", (None,))[0]
            if layer.groups == 1:
                chosen = target if survivors is None else target[:, survivors]
                _fit(layer, _patches(narrow, layer, inputs, places), chosen)


def _outputs(network: nn.Module, inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every convolution, in running order: sampled places [N, P] and its outputs there, [N * P, channels]."""
    random = torch.Generator().manual_seed(0)
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def keep(name: str, output: Tensor) -> None:
        places, values = found.setdefault(name, ([], []))
        flat = output.float().flatten(2).cpu()
        count = min(flat.shape[2], -(-PLACES // len(inputs)))
        chosen = torch.stack([torch.randperm(flat.shape[2], generator=random)[:count] for _ in flat])
        places.append(chosen)
        values.append(flat.gather(2, chosen[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2).flatten(0, 1))

    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    try:
        for chunk in inputs.split(AT_ONCE):
            network(chunk)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (torch.cat(places), torch.cat(values)) for name, (places, values) in found.items()}


def _patches(network: nn.Module, layer: nn.Conv2d, inputs: Tensor, places: Tensor) -> Tensor:
    """What the layer sees at the places: float [N * P, channels * kernel]."""
    taken: list[Tensor] = []

    def take(_: nn.Module, arguments: tuple[Tensor]) -> None:
        taken.append(arguments[0].float())
        raise _Reached

    handle = layer.register_forward_pre_hook(take)
    found = []
    try:
        for chunk, chosen in zip(inputs.split(AT_ONCE), places.split(AT_ONCE), strict=True):
            try:
                network(chunk)
            except _Reached:
                for picture, at in zip(taken.pop(), chosen, strict=True):
                    columns = F.unfold(
                        picture[None], layer.kernel_size, layer.dilation, layer.padding, layer.stride  # type: ignore[arg-type]
                    )  # fmt: skip
                    found.append(columns[0].cpu()[:, at].T)
    finally:
        handle.remove()
    return torch.cat(found)


def _fit(layer: nn.Conv2d, patches: Tensor, target: Tensor) -> None:
    """The layer's new weights: least squares of what is missing, kept near the old ones."""
    x, old = patches, layer.weight.detach().cpu().float().flatten(1).T
    if layer.bias is not None:  # one more input, always 1
        x = F.pad(x, (0, 1), value=1.0)
        old = torch.cat([old, layer.bias.detach().cpu().float()[None]])
    new = old.double() + ridge((x.T @ x).double(), (x.T @ (target - x @ old)).double())
    rows = new.T.to(layer.weight)
    if layer.bias is not None:
        layer.bias.copy_(rows[:, -1])
        rows = rows[:, :-1]
    layer.weight.copy_(rows.reshape(layer.weight.shape))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
