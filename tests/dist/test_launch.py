"""The launcher's traps: one process on a CPU uses all cores, two know of each other, and lone twins are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_cls import launch as launcher

pytestmark = pytest.mark.dist

PROGRAM = """
import torch
from ssl_cls import launch
from ssl_cls.screen import guarded

def main():
    accelerator = launch.start("auto")
    print(f"rank {accelerator.process_index} of {accelerator.num_processes}, {torch.get_num_threads()} threads, {accelerator.mixed_precision}", flush=True)
    accelerator.wait_for_everyone()  # a rank that is gone before the other has connected fails that one
    accelerator.end_training()

guarded(main)
"""
CORES = len(os.sched_getaffinity(0))


def launch(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "accelerate.commands.launch", *flags, str(folder / "program.py")]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | {
        "CUDA_VISIBLE_DEVICES": ""
    }
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def test_one_process_under_a_bare_launcher_uses_every_core(tmp_path: Path) -> None:
    done = launch(tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"rank 0 of 1, {CORES} threads, {'bf16' if launcher.has_bf16(on_cpu=True) else 'no'}\n" in done.stdout


def test_two_processes_without_a_gpu_are_two_ranks_that_share_the_cores(tmp_path: Path) -> None:
    done = launch(tmp_path, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert f"rank {rank} of 2, {max(1, CORES // 2)} threads" in done.stdout


def test_a_process_that_does_not_know_of_the_others_stops(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("RANK", None)
    environment.pop("LOCAL_RANK", None)
    alone = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )
    assert alone.returncode != 0
    assert "rank" not in alone.stdout
