"""One process = two gloo processes = two micro-batches: losses, gradients and every state tensor after five steps."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]  # the first test waits for all launches

HERE = Path(__file__).parent
VIT = (
    "backbone: {name: vit_tiny_patch16_224, args: {patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2}, pooling: avg}"
)
CNN = "backbone: {name: resnet_small, args: {channels: [8, 16]}, pooling: avg}"
HEAD = "{hidden_dim: 16, bottleneck_dim: 8, prototypes: 32}"
RECIPES = {
    "mae": f"{VIT}\nmethod: {{name: mae, decoder_dim: 16, decoder_depth: 1, decoder_heads: 2}}",
    "supervised": f"{VIT}\nmethod: {{name: supervised}}",
    "simclr": f"{CNN}\nmethod: {{name: simclr, projector: [16, 8]}}",
    "moco": f"{CNN}\nmethod: {{name: moco, momentum: 0.9, queue: 128, symmetric: true, norm_splits: 4, projector: [16, 8]}}",
    "byol": f"{CNN}\nmethod: {{name: byol, momentum: 0.9, projector: [16, 8], predictor: 16}}",
    "mocov3": f"{VIT}\nmethod: {{name: mocov3, momentum: 0.9, projector: [16, 16, 8], predictor_dim: 16}}",
    "dino": f"{VIT}\nmethod: {{name: dino, momentum: 0.9, freeze_prototypes_epochs: 0, head: {HEAD}}}",
    "dinov2": f"{VIT}\nmethod: {{name: dinov2, momentum: 0.9, freeze_prototypes_epochs: 0, head: {HEAD}}}",
    "dinov2_sinkhorn": f"{VIT}\nmethod: {{name: dinov2, centering: sinkhorn, momentum: 0.9, head: {HEAD}}}",
    "simsiam": f"{CNN}\nmethod: {{name: simsiam, projector: [16, 16], predictor: 4}}",
}
ADAMW = "name: adamw, lr: 1.0e-3, weight_decay: 0.05"
SGD = "name: sgd, base_lr: 0.4, weight_decay: 1.0e-4"  # a rate of 0.05 for the global batch of 32: X4

Split = Literal["whole", "ranks", "micro-batches", "both"]
Outcome = dict[str, Tensor]


class Case(NamedTuple):
    recipe: str
    dtype: Literal["float32", "float64"]
    optim: str
    norm: bool = True  # False: every batch norm removed, so that micro-batches are exact


BATCH_FREE = ["mae", "supervised", "dino"]  # nothing in them looks across images
NORMED = ["moco", "byol", "simsiam"]  # batch norm does, and nothing else
COUPLED = ["simclr", "mocov3", "dinov2", "dinov2_sinkhorn"]  # the loss does, so that micro-batches mean gradient caching
CASES: dict[Case, list[Split]] = {
    **{Case(name, "float64", ADAMW): ["whole", "ranks", "micro-batches"] for name in BATCH_FREE},
    **{Case(name, "float32", ADAMW): ["ranks", "micro-batches"] for name in BATCH_FREE},
    **{Case(name, "float32", SGD): ["whole", "ranks", "micro-batches"] for name in BATCH_FREE},
    **{Case(name, "float64", SGD): ["whole", "ranks"] for name in [*COUPLED, *NORMED]},
    **{Case(name, "float64", SGD, norm=False): ["whole", "micro-batches"] for name in NORMED},
    **{Case(name, "float64", SGD, norm=False): ["whole", "micro-batches", "both"] for name in COUPLED},
}


def launch(folder: Path, processes: int, jobs: list[dict[str, object]]) -> None:
    path = folder / f"jobs-{processes}.json"
    path.write_text(json.dumps(jobs))
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
    done = subprocess.run(
        [*launcher, str(HERE / "parity_worker.py"), str(path)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case, Split], Outcome]:
    """What each case came to under each split: two launches make them all."""
    folder = tmp_path_factory.mktemp("parity")
    jobs: dict[int, list[dict[str, object]]] = {1: [], 2: []}
    for number, (case, splits) in enumerate(CASES.items()):
        recipe = folder / f"{number}.yaml"
        recipe.write_text(
            f"name: parity\nseed: 3\ndata: {{source: digits}}\n{RECIPES[case.recipe]}\n"
            f"optim: {{{case.optim}}}\ntrain: {{epochs: 1, batch_size: 32}}\n"
        )
        for split in splits:
            processes = 2 if split in ("ranks", "both") else 1
            overrides = [f"train.micro_batch_size={16 // processes}"] if split in ("micro-batches", "both") else []
            jobs[processes].append(
                {"out": f"{folder}/{number}-{split}", "recipe": str(recipe), "overrides": overrides}
                | {"dtype": case.dtype, "norm": case.norm}
            )
    for processes, its_jobs in jobs.items():
        launch(folder, processes, its_jobs)

    def read(case: Case, split: Split) -> Outcome:
        ranks = [load_file(file) for file in sorted(folder.glob(f"{list(CASES).index(case)}-{split}.*"))]
        views = torch.cat([tensors["views"] for tensors in ranks], dim=2)  # [steps, views, images, C, H, W]
        return {**ranks[0], "views": views}

    return read


def compare(a: Outcome, b: Outcome, tolerance: float) -> None:
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


@pytest.mark.parametrize("recipe", BATCH_FREE)
def test_float64_agrees_to_1e_10(outcome: Callable[[Case, Split], Outcome], recipe: str) -> None:  # X1
    case = Case(recipe, "float64", ADAMW)
    compare(outcome(case, "whole"), outcome(case, "ranks"), 1e-10)
    compare(outcome(case, "whole"), outcome(case, "micro-batches"), 1e-10)


@pytest.mark.parametrize("recipe", BATCH_FREE)
def test_float32_adamw_on_two_ranks_is_two_micro_batches_bit_for_bit(
    outcome: Callable[[Case, Split], Outcome], recipe: str
) -> None:
    case = Case(recipe, "float32", ADAMW)
    compare(outcome(case, "ranks"), outcome(case, "micro-batches"), 0)


@pytest.mark.parametrize("recipe", BATCH_FREE)
def test_float32_sgd_agrees_to_1e_6(outcome: Callable[[Case, Split], Outcome], recipe: str) -> None:
    case = Case(recipe, "float32", SGD)
    tolerance = 1e-5 if recipe == "dino" else 1e-6  # its temperatures, a tenth and a 25th, magnify the last digits
    compare(outcome(case, "whole"), outcome(case, "ranks"), tolerance)
    compare(outcome(case, "whole"), outcome(case, "micro-batches"), tolerance)


@pytest.mark.parametrize("recipe", [*COUPLED, *NORMED])
def test_two_ranks_are_one_process_with_batch_norm(
    outcome: Callable[[Case, Split], Outcome], recipe: str
) -> None:  # X1, X2
    """Gathered negatives, KoLeo, Sinkhorn; MoCo's queue, and its parts of the global batch; synchronised norm elsewhere."""
    case = Case(recipe, "float64", SGD)
    compare(outcome(case, "whole"), outcome(case, "ranks"), 1e-10)


@pytest.mark.parametrize("recipe", NORMED)
def test_two_micro_batches_are_one_without_batch_norm(outcome: Callable[[Case, Split], Outcome], recipe: str) -> None:
    """EMA, queue and pointer move once a step, whatever the number of micro-batches."""
    case = Case(recipe, "float64", SGD, norm=False)
    compare(outcome(case, "whole"), outcome(case, "micro-batches"), 1e-10)


@pytest.mark.parametrize("recipe", COUPLED)
def test_two_ranks_of_two_micro_batches_are_one_pass_through_gradient_caching(
    outcome: Callable[[Case, Split], Outcome], recipe: str
) -> None:  # X1
    case = Case(recipe, "float64", SGD, norm=False)
    compare(outcome(case, "whole"), outcome(case, "micro-batches"), 1e-10)
    compare(outcome(case, "whole"), outcome(case, "both"), 1e-10)
