"""Flipped bits, cut, emptied, deleted and exchanged files of a checkpoint: seen, set aside, and the one before used."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from campaign import Row
from ssl_cls import checkpoint
from ssl_cls.checkpoint import Checkpoint

FILES = ["model.safetensors", "optim.safetensors", "state.json", checkpoint.MANIFEST]


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def zero(path: Path, chance: random.Random) -> None:
    """A page that never reached the disk."""
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content))
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    path.write_bytes(content + b"\0")


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def exchange(path: Path, chance: random.Random) -> None:
    """The file of the checkpoint before, whole in itself."""
    shutil.copy(path.parent.with_name("step_00000010") / path.name, path)


HARMS: dict[str, Callable[[Path, random.Random], None]] = {
    "a flipped bit": flip,
    "a cut file": cut,
    "a file of zeros in part": zero,
    "a deleted file": delete,
    "a file of another checkpoint": exchange,
}


def write(root: Path, step: int) -> Path:
    generator = torch.Generator().manual_seed(step)
    model = {name: torch.randn(40, 30, generator=generator) for name in ("weight", "teacher", "queue")}
    moments = {f"weight/{name}": torch.randn(40, 30, generator=generator) for name in ("exp_avg", "exp_avg_sq")}
    state = {"step": step, "metrics_bytes": 100 * step, "environment": {"torch": torch.__version__}, "ranks": 1}
    return checkpoint.save(root, state, model, moments, keep=2)


def seen_and_passed_over(root: Path, before: Checkpoint) -> bool:
    """Whether the harmed checkpoint has been named and set aside, and the one before is what is loaded."""
    told, newest = checkpoint.set_aside(root), checkpoint.newest(root)
    names = sorted(path.name for path in root.iterdir())
    if len(told) != 1 or newest is None or names != ["broken_step_00000020", "step_00000010"]:
        return False
    loaded = checkpoint.load(newest)
    weights = all(torch.equal(loaded.model[name], value) for name, value in before.model.items())
    moments = all(torch.equal(loaded.optim[name], value) for name, value in before.optim.items())
    return loaded.state == before.state and weights and moments


def run(tries: int, folder: Path, seed: int = 0) -> list[Row]:
    """Half of the tries are single bits; the others are shared out."""
    chance, good = random.Random(seed), folder / "good"
    write(good, 10)
    write(good, 20)
    before = checkpoint.load(good / "step_00000010")
    tried: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    for number in range(tries):
        kind = "a flipped bit" if number % 2 else chance.choice(list(HARMS))
        root = folder / "harmed"
        shutil.copytree(good, root)
        HARMS[kind](root / "step_00000020" / FILES[number // 2 % len(FILES)], chance)
        tried[kind] += 1
        survived[kind] += seen_and_passed_over(root, before)
        shutil.rmtree(root)
    return [Row(f"checkpoint: {kind}", tried[kind], survived[kind]) for kind in HARMS if tried[kind]]
