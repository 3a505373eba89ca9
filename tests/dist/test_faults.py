"""Two real ranks: what one of them meets, both know; one that is gone or frozen does not keep the other."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaign import processes

pytestmark = pytest.mark.dist

GATE = """
import sys
import torch
from torch import distributed
from ssl_cls.safety import Gate

rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
gate = Gate(torch.device("cpu"))
fine, bad = torch.ones(()), torch.full((), float("nan"))
for step in range(4):
    loss = bad if (rank, step) == (1, 2) else fine
    skip = gate.judge(step, [loss], fine, 15 if (rank, step) == (0, 1) else 0)
    judged = gate.read()
    print(step, int(skip), judged.bad_rank, judged.signal)
"""


def test_what_one_rank_meets_gates_the_step_of_both(tmp_path: Path) -> None:  # R10
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", GATE, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for process in ranks:
        out, error = process.communicate(timeout=240)
        # step, update left out, rank whose loss is no number, signal: from the step in which either met it
        assert out.splitlines() == ["0 0 -1 0", "1 0 -1 15", "2 1 1 15", "3 1 1 15"], error


def test_a_signal_to_the_whole_group_is_one_request_and_saves(tmp_path: Path) -> None:  # R7
    assert processes.signalled(tmp_path / "run", "group")


def test_a_frozen_rank_is_named_and_all_are_gone_in_time(tmp_path: Path) -> None:  # R8
    assert processes.broken(tmp_path / "run", 1, signal.SIGSTOP)
