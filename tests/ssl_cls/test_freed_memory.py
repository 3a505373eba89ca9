"""A CPU that keeps what a step frees."""

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, torch
from ssl_cls.launch import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**21)  # 8 MB, at once given back
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets bounds of glibc's malloc")
def test_memory_that_a_step_frees_is_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 1000
    assert kept < given_back / 20
