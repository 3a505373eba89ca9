"""Two real ranks: what one of them meets, both know; one that is gone or frozen does not keep the other."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from campaign import ROOT, processes, run_folder, write_recipe
from safetensors.torch import load_file

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


def test_a_run_goes_on_with_other_ranks_and_back(tmp_path: Path) -> None:
    """Five steps by one process, ten by two, five by one: the weights of twenty by one."""
    recipe = write_recipe(tmp_path, "mae", keep=9)
    text = recipe.read_text().replace("name: adamw, lr: 1e-3", "name: sgd, lr: 0.05")
    recipe.write_text(text.replace("batch_size: 64", "batch_size: 64, precision: fp32"))
    run = run_folder(tmp_path, "mae")

    def train(ranks: int) -> dict[str, torch.Tensor]:
        flags = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"] if ranks == 2 else []
        command = [sys.executable, "-m", "accelerate.commands.launch", *flags, str(ROOT / "tools" / "pretrain.py")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [*command, recipe.name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        last = max((run / "checkpoints").glob("step_*"))
        assert last.name == "step_00000020"
        assert json.loads((last / "state.json").read_text())["ranks"] == ranks
        return load_file(last / "model.safetensors")

    def back_to(step: int) -> None:
        """As if the run had been killed then."""
        shutil.rmtree(run / "encoder")
        for checkpoint in (run / "checkpoints").glob("step_*"):
            if int(checkpoint.name.removeprefix("step_")) > step:
                shutil.rmtree(checkpoint)

    alone = train(1)
    for step, ranks in ((5, 2), (15, 1)):
        back_to(step)
        again = train(ranks)
    assert "resuming at step 5 of 20" in (run / "log.txt").read_text()
    assert "resuming at step 15 of 20" in (run / "log.txt").read_text()
    for name, tensor in alone.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda said, name=name: f"{name}: {said}")
