import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from rayface.training.memory import keep_freed_memory
assert {keep}
def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.full((48 << 20,), 1, dtype=torch.uint8) for _ in range(2)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
[fill() for _ in range(40)]  # aligned blocks fit into freed ones only after some rounds
print(fill())
"""


def page_faults(keep: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc hands memory back that soon")
def test_freed_memory_is_used_again_without_fetching_it_anew() -> None:
    assert page_faults("keep_freed_memory()") < 100
    assert page_faults("not False") > 1000  # else there is nothing to keep and the function can go
