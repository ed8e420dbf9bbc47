"""What a network costs: multiplications counted, time measured."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def multiplications(network: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates (MACs) of convolutions and matrix products for `example`, float [N, 3, H, W]."""
    with FlopCounterMode(display=False) as counter:
        network(example)
    return counter.get_total_flops() // 2  # it counts the multiplication and the addition


def median_ms(call: Callable[[], object], repeats: int = 15) -> float:
    """Median milliseconds of a call, after three that do not count."""
    times = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return median(times[3:])


@torch.inference_mode()
def latency_ms(network: nn.Module, example: Tensor, repeats: int = 15) -> float:
    """Median milliseconds of a forward pass of `example`, after three that do not count, where the network lies.

    In channels_last, as networks are served; the network stays in it.
    """
    network.to(memory_format=torch.channels_last)
    example = example.contiguous(memory_format=torch.channels_last)

    def forward() -> None:
        network(example)
        if example.device.type == "cuda":
            torch.cuda.synchronize(example.device)

    return median_ms(forward, repeats)
