"""Where a run executes: one process or many, how many threads, which device and precision."""

import ctypes
import os
import signal
from contextlib import suppress
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from ssl_cls.cores import usable_cores
from ssl_cls.errors import UserError

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def use_all_cores(local_ranks: int = 1) -> int:
    """Give this process its share of the cores; returns the number of threads.

    OMP_NUM_THREADS is the user's word and is kept, except for the 1 that `accelerate launch` sets where the user set
    nothing: it would leave all cores but one idle.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked == "1" and _under_launcher():
        asked = ""
    threads = int(asked) if asked.isdigit() else max(1, usable_cores() // local_ranks)
    torch.set_num_threads(threads)
    return threads


def _under_launcher() -> bool:
    return "ACCELERATE_MIXED_PRECISION" in os.environ


def has_bf16(on_cpu: bool) -> bool:
    """Whether matrix products in bfloat16 are done by the hardware, in about half the time of float32."""
    return torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)


def keep_freed_memory() -> None:
    """Let the C library reuse what a step frees instead of giving it back: a sixth of a small network's step went on
    the page faults of having it anew. Peak memory stays as it is.

    Both bounds must be set: once one is, glibc no longer adapts the other.
    """
    with suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the largest that it takes
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def start(precision: str, deterministic: bool = False, timeout_seconds: float = 600.0) -> Accelerator:
    """The Accelerator of this process, on the GPUs there are, else on the CPU; `precision` is auto, fp32 or bf16.

    timeout_seconds: how long one rank waits for another before it gives it up.

    Raises:
        UserError: the launcher started several processes that do not know of each other.
    """
    if _under_launcher():
        # the launcher forwards no signals to a single process: without this its death leaves an orphan that trains on
        with suppress(OSError, AttributeError):  # not Linux
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    on_cpu = not torch.cuda.is_available()
    bf16 = precision == "bf16" or (precision == "auto" and has_bf16(on_cpu))
    if on_cpu:  # also the switch of the CPU's fused attention, whose bf16 gradient takes half of a small ViT's step
        torch.backends.cuda.enable_flash_sdp(False)
        keep_freed_memory()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="bf16" if bf16 else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=False),
            InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_seconds)),
        ],
    )
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked != accelerator.num_processes:
        raise UserError(
            f"the launcher started {asked} processes but this one knows of {accelerator.num_processes}",
            "accelerate launch",
            "accelerate launch --multi_gpu --num_processes N (gloo where there is no GPU), or plain accelerate launch",
        )
    use_all_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return accelerator
