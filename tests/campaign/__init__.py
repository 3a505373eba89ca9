"""The fault campaign: what `tools/faults.py` runs whole and the tests run in short."""

import hashlib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_VIT = "{name: vit_tiny_patch16_224, args: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}, pooling: avg}"
_CNN = "{name: resnet_small, args: {channels: [8, 16]}, pooling: avg}"
_HEAD = "momentum: 0.9, freeze_prototypes_epochs: 0, head: {hidden_dim: 16, bottleneck_dim: 8, prototypes: 32}"
METHODS = {
    "mae": (_VIT, "decoder_dim: 8, decoder_depth: 1, decoder_heads: 2"),
    "simclr": (_CNN, "projector: [16, 8]"),
    "moco": (_CNN, "momentum: 0.9, queue: 128, symmetric: true, norm_splits: 4, projector: [16, 8]"),
    "byol": (_CNN, "momentum: 0.9, projector: [16, 8], predictor: 16"),
    "simsiam": (_CNN, "projector: [16, 16], predictor: 4"),
    "mocov3": (_VIT, "momentum: 0.9, projector: [16, 16, 8], predictor_dim: 16"),
    "dino": (_VIT, _HEAD),
    "dinov2": (_VIT, _HEAD),
    "supervised": (_CNN, "label_smoothing: 0.1"),
}


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    tries: int  # faults that took place
    survived: int
    note: str = ""  # how, or what was lost


def write_recipe(folder: Path, method: str, epochs: float = 1, **run: object) -> Path:
    """A run of seconds: 20 steps of 64 digits an epoch, a checkpoint each 5, a line each 3."""
    backbone, arguments = METHODS[method]
    settings = {"checkpoint_every_steps": 5, "log_every_steps": 3, **run}
    path = folder / f"{method}.yaml"
    path.write_text(
        f"name: {method}\nseed: 1\ndata: {{source: digits}}\nbackbone: {backbone}\n"
        f"method: {{name: {method}, {arguments}}}\noptim: {{name: adamw, lr: 1e-3, warmup_epochs: 0.5}}\n"
        f"train: {{epochs: {epochs}, batch_size: 64}}\n"
        f"run: {{{', '.join(f'{key}: {value}' for key, value in settings.items())}}}\n"
    )
    return path


def run_folder(folder: Path, method: str) -> Path:
    return folder / "runs" / f"{method}-seed1"


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of all that a finished run is: weights, EMA and queue, optimizer, metrics, encoder, recipe."""
    last = max((run / "checkpoints").glob("step_*"))
    files = [last / "model.safetensors", last / "optim.safetensors", run / "metrics.jsonl", run / "recipe.yaml"]
    files.append(run / "encoder" / "model.safetensors")
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
