"""A short training of one network, whose average over the last steps is what is kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def averaged(
    network: nn.Module,
    loss_at: Callable[[int], Tensor],
    steps: int,
    rate_at: Callable[[int], float],
    half_life: int,
    told_every: int,
) -> nn.Module:
    """Train `network` in place, by Adam, on `loss_at(step)` at the rate `rate_at(step)`; its average, frozen.

    `half_life`: in steps, of the average; `told_every`: steps, after which the loss is printed.
    """
    optimiser = torch.optim.Adam(network.parameters(), rate_at(0), (0.9, 0.99))
    update = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5 ** (1 / half_life))
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=update)
    for step in range(steps):
        loss = loss_at(step)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update_parameters(network)
        if step % told_every == 0:
            print(f"{step}: {float(loss.detach()):.4f}", flush=True)
    result: nn.Module = average.module
    return result.eval().requires_grad_(False)
