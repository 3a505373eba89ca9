"""A checkpoint is a folder of safetensors and JSON that is either whole and verified, or not there.

    checkpoints/step_00000123/  model.safetensors optim.safetensors state.json MANIFEST.json

Written under a temporary name, fsynced file by file, renamed, verified by its SHA-256 manifest, and only then are older
ones pruned. A damaged one is set aside under another name: neither loaded nor deleted. Nothing here is pickled.
"""

import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_cls import durable

MANIFEST = "MANIFEST.json"
_FILES = "model.safetensors", "optim.safetensors", "state.json"


class Checkpoint(NamedTuple):
    folder: Path
    state: dict[str, Any]  # step, metrics_bytes, and what the machine was
    model: dict[str, Tensor]
    optim: dict[str, Tensor]


def optimizer_tensors(optimizer: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: {"head.weight/exp_avg": ...}."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {f"{names[p]}/{key}": value for p, state in optimizer.state.items() for key, value in state.items()}


def restore_optimizer(optimizer: Optimizer, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of optimizer_tensors. Moments take their parameter's memory layout, as if they had never left."""
    parameters = dict(module.named_parameters())
    for entry, value in tensors.items():
        name, key = entry.rsplit("/", 1)
        parameter = parameters[name]
        like = (
            torch.empty_like(parameter)
            if value.shape == parameter.shape
            else torch.empty_like(value, device=parameter.device)
        )
        optimizer.state[parameter][key] = like.copy_(value)


def save(root: Path, state: dict[str, Any], model: dict[str, Tensor], optim: dict[str, Tensor], keep: int) -> Path:
    """Write root/step_N for N = state["step"], verify it, then prune all but the newest `keep`.

    Raises:
        OSError: the disk is full, read-only or broken; what was saved before is untouched.
    """
    folder = root / f"step_{state['step']:08d}"
    with durable.written(folder) as writing:
        for name, tensors in (("model", model), ("optim", optim)):
            ready = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(ready, writing / f"{name}.safetensors")
        (writing / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True))
        (writing / MANIFEST).write_text(json.dumps({name: _entry(writing / name) for name in _FILES}, indent=1))
    if (damage := damaged(folder)) is not None:
        raise OSError(f"{folder} did not read back as it was written: {damage}")
    for old in _folders(root)[keep:]:
        shutil.rmtree(old)
    return folder


def set_aside(root: Path) -> list[str]:
    """Rename every damaged checkpoint to broken_step_N: "name: what is wrong" of each. They are never deleted."""
    found = []
    for folder in _folders(root):
        if (damage := damaged(folder)) is not None:
            target = folder.with_name(f"broken_{folder.name}")
            for number in itertools.count(2):
                if not target.exists():
                    break
                target = folder.with_name(f"broken_{folder.name}-{number}")
            folder.rename(target)
            durable.sync(root)
            found.append(f"{folder.name} is damaged and set aside as {target.name}: {damage}")
    return found


def damaged(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every file is there with the bytes of the manifest."""
    try:
        manifest: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())
        if sorted(manifest) != sorted(_FILES):
            return f"{MANIFEST} lists {', '.join(sorted(manifest))}"
        for name in _FILES:
            if manifest[name] != _entry(folder / name):
                return f"{name} differs from its manifest"
    except (OSError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _folders(root: Path) -> list[Path]:
    """Newest first."""
    return sorted((path for path in root.glob("step_*") if path.is_dir()), reverse=True)


def newest(root: Path) -> Path | None:
    """The newest checkpoint under `root` that verifies."""
    return next((folder for folder in _folders(root) if damaged(folder) is None), None)


def load(folder: Path) -> Checkpoint:
    """Read a verified checkpoint onto the CPU."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return Checkpoint(folder, state, load_file(folder / "model.safetensors"), load_file(folder / "optim.safetensors"))
