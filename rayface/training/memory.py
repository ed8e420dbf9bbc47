"""What a training process does with memory that a step has freed."""

import ctypes
import platform

# Numbers of glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
LARGEST = 2**31 - 1  # mallopt takes an int
PAD = 64 << 20


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next step; False where the C library is not glibc.

    By itself glibc hands every freed tensor above 32 MB, and the heap's free end, back to the kernel, and a step on the
    CPU fetches the same pages again, zeroed, one fault for each 4 kB. A step's tensors have the same sizes every
    time, so what is kept is what is needed again: the peak does not grow (docs/benchmarks.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, PAD))
    return all([mallopt(option, value) for option, value in wanted])
