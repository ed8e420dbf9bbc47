"""How much of what a network should give is still in each of its layers: the score of the quality gate (SPEC C4).

A linear read-out is fitted by ridge regression from a layer's channels, at every place, to the patch of the target
under it, on half of the photos; the score is the PSNR of what it reads on the other half. So layers of different
widths, of different networks and at different resolutions are compared by what they know, not by how they hold it (a
cosine between layers of different widths means nothing).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RIDGE = 1e-3  # of the features' mean variance


@torch.inference_mode()
def layer_scores(network: nn.Module, inputs: Tensor, target: Tensor) -> dict[str, float]:
    """PSNR in dB of the read-out of every convolution, by name, in the order in which they run.

    Args:
        inputs: float [N, 3, S, S], N at least 2: what the network takes.
        target: float [N, C, T, T], or [N, D] for what has no place: what it should give.
    """
    device = next(network.parameters()).device
    half = len(inputs) // 2
    maps: dict[str, list[Tensor]] = {}
    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: maps.setdefault(name, []).append(output.cpu()))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    training = network.training
    try:
        network.eval()
        for chunk in inputs.to(device).split(8):
            network(chunk)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    target = target.float().cpu()
    peak = float(target.max() - target.min())
    return {name: _score(torch.cat(chunks).float(), target, half, peak) for name, chunks in maps.items()}


def _score(features: Tensor, target: Tensor, half: int, peak: float) -> float:
    x, y = _pairs(features, target)
    x = F.pad(x, (0, 1), value=1.0)  # for the mean
    seen, wanted = x[:half].flatten(0, 1), y[:half].flatten(0, 1)
    weights = ridge(seen.T.double() @ seen.double(), (seen.T @ wanted).double()).float()
    error = (x[half:] @ weights - y[half:]).square().mean()
    return 10 * math.log10(peak**2 / max(float(error), 1e-12))


def _pairs(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Samples [N, places, C] and what is to be read from them [N, places, D]."""
    if target.ndim == 2:
        return features.mean((2, 3))[:, None], target[:, None]
    side, wanted = features.shape[-1], target.shape[-1]
    if side > wanted:
        features, side = F.adaptive_avg_pool2d(features, wanted), wanted
    elif wanted % side:
        target = F.interpolate(target, (side * (wanted // side),) * 2, mode="area")
    patches = F.pixel_unshuffle(target, target.shape[-1] // side)
    return features.flatten(2).transpose(1, 2), patches.flatten(2).transpose(1, 2)


def ridge(gram: Tensor, moments: Tensor) -> Tensor:
    """Weights [C, D] of a ridge regression from float64 [C, C], x.T @ x, which is changed, and [C, D], x.T @ y."""
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return torch.linalg.solve(gram, moments)
