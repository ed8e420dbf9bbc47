"""In which numbers networks compute when they are not trained."""

from contextlib import AbstractContextManager

import torch


def as_served(device: torch.device) -> AbstractContextManager[object]:
    """bf16 where the processor has it, for networks whose output is added to the picture.

    A rounding error of what is added is far below one level of 255. On a CPU with avx512_bf16 the enhancer takes half
    the time; without it bf16 is emulated and slower, so there it stays float32.
    """
    half = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    # no cache: what is searched for by descent (inversion, tuning) would be read as it was at the first step
    return torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False)
