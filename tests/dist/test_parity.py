"""One process = two gloo processes = two micro-batches: losses, gradients and every state tensor after five steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytestmark = pytest.mark.dist

HERE = Path(__file__).parent
VIT = (
    "backbone: {name: vit_tiny_patch16_224, args: {patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2}, pooling: avg}"
)
CNN = "backbone: {name: resnet_small, args: {channels: [8, 16]}, pooling: avg}"
MAE = "method: {name: mae, decoder_dim: 16, decoder_depth: 1, decoder_heads: 2}"
RECIPES = {
    "mae": f"{VIT}\n{MAE}",
    "supervised": f"{VIT}\nmethod: {{name: supervised}}",
    "simclr": f"{CNN}\nmethod: {{name: simclr, projector: [16, 8]}}",
}


def run(folder: Path, recipe: str, dtype: str, optimizer: str, processes: int, *overrides: str) -> dict[str, Tensor]:
    path = folder / f"{recipe}.yaml"
    path.write_text(
        f"name: parity\nseed: 3\ndata: {{source: digits}}\n{RECIPES[recipe]}\n"
        f"optim: {{{optimizer}}}\ntrain: {{epochs: 1, batch_size: 32}}\n"
    )
    out = folder / f"{recipe}-{dtype}-{processes}-{len(overrides)}"
    several = ["--multi_gpu", "--num_processes", str(processes), "--main_process_port", "0"] if processes > 1 else []
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *several,
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    command = [*launcher, str(HERE / "parity_worker.py"), str(out), dtype, str(path), *overrides]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [load_file(f"{out}.{rank}") for rank in range(processes)]
    views = torch.cat([tensors["views"] for tensors in ranks], dim=2)  # [steps, views, images, C, H, W]
    return {**ranks[0], "views": views}


def compare(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        if tolerance == 0 or not a[name].is_floating_point():
            assert torch.equal(a[name], b[name]), name
        else:
            scale = float(a[name].abs().max().clamp(min=1))
            assert float((a[name] - b[name]).abs().max()) <= tolerance * scale, (
                name,
                float((a[name] - b[name]).abs().max()),
            )


@pytest.mark.parametrize("recipe", ["mae", "supervised"])
def test_float64_agrees_to_1e_10(tmp_path: Path, recipe: str) -> None:
    adamw = "name: adamw, lr: 1.0e-3, weight_decay: 0.05"
    whole = run(tmp_path, recipe, "float64", adamw, 1)
    compare(whole, run(tmp_path, recipe, "float64", adamw, 2), 1e-10)
    compare(whole, run(tmp_path, recipe, "float64", adamw, 1, "train.micro_batch_size=16"), 1e-10)


@pytest.mark.parametrize("recipe", ["mae", "supervised"])
def test_float32_adamw_on_two_ranks_is_two_micro_batches_bit_for_bit(tmp_path: Path, recipe: str) -> None:
    adamw = "name: adamw, lr: 1.0e-3, weight_decay: 0.05"
    compare(
        run(tmp_path, recipe, "float32", adamw, 2),
        run(tmp_path, recipe, "float32", adamw, 1, "train.micro_batch_size=16"),
        0,
    )


@pytest.mark.parametrize("recipe", ["mae", "supervised"])
def test_float32_sgd_agrees_to_1e_6(tmp_path: Path, recipe: str) -> None:
    sgd = "name: sgd, lr: 0.05"
    whole = run(tmp_path, recipe, "float32", sgd, 1)
    compare(whole, run(tmp_path, recipe, "float32", sgd, 2), 1e-6)
    compare(whole, run(tmp_path, recipe, "float32", sgd, 1, "train.micro_batch_size=16"), 1e-6)


def test_simclr_on_two_ranks_is_one_process_through_gathered_negatives_and_synced_batch_norm(
    tmp_path: Path,
) -> None:  # X1, X2
    """The batch statistics are over the same 2B views whichever way the batch is split."""
    sgd = "name: sgd, lr: 0.05"
    compare(run(tmp_path, "simclr", "float64", sgd, 1), run(tmp_path, "simclr", "float64", sgd, 2), 1e-10)


def test_simclr_on_two_ranks_with_two_micro_batches_each_is_one_process_through_gradient_caching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # X1
    """Free of batch norm, whose statistics would be those of a micro-batch."""
    monkeypatch.setenv("PARITY_WITHOUT_BATCH_NORM", "1")
    sgd, quarter = "name: sgd, lr: 0.05", "train.micro_batch_size=8"
    whole = run(tmp_path, "simclr", "float64", sgd, 1)
    compare(whole, run(tmp_path, "simclr", "float64", sgd, 2, quarter), 1e-10)
    compare(whole, run(tmp_path, "simclr", "float64", sgd, 1, quarter), 1e-10)
