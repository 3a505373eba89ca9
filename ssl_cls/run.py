"""A run directory: whose it is, what it has logged, and where it can go on from. Only the main process writes to it."""

import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import IO, Any

import accelerate
import timm
import torch

from ssl_cls import __version__, checkpoint, config
from ssl_cls.config import Recipe
from ssl_cls.errors import UserError


def environment() -> dict[str, Any]:
    """What byte-equality is promised under: versions, threads, device."""
    return {
        "ssl_cls": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine(),
    }


class Run:
    """Opened for writing by one process at a time.

    Raises:
        UserError: the folder holds a run of another recipe (with the differences), or another process is writing to it.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        self._lock: IO[str] | None = None

    @property
    def finished(self) -> bool:
        return (self.folder / "encoder" / "config.json").exists()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def check(self) -> None:
        """Refuse a folder that belongs to another recipe; changes nothing."""
        saved = self.folder / "recipe.yaml"
        if not saved.exists():
            return
        if differences := config.diff(config.load(saved, []), self.recipe):
            raise UserError(
                "this run directory holds a run of another recipe:\n" + "\n".join(f"  {line}" for line in differences),
                str(self.folder),
                "give this run its own place with run.dir=..., or undo the change to resume",
            )

    def open(self) -> None:
        """Lock the folder for this process and write the complete recipe into it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "another process is writing to this run", str(self.folder), "wait for it, or stop it first"
            ) from error
        text = config.dump(self.recipe)
        saved = self.folder / "recipe.yaml"
        if not saved.exists() or saved.read_text() != text:
            writing = self.folder / ".recipe.yaml.tmp"
            writing.write_text(text)
            writing.replace(saved)

    def say(self, text: str) -> None:
        """To the log; the screen is the caller's."""
        with (self.folder / "log.txt").open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def append(self, name: str, row: dict[str, Any]) -> None:
        """One object more in metrics.jsonl or timing.jsonl."""
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def metrics_bytes(self) -> int:
        """The length of metrics.jsonl, safely on disk."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return 0
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def latest(self) -> checkpoint.Checkpoint | None:
        """The newest checkpoint that verifies; damaged ones are named in the log and passed over."""
        for folder, damage in checkpoint.verified(self.checkpoints):
            if damage is None:
                return checkpoint.load(folder)
            self.say(f"passing over {folder.name}: {damage}")
        return None

    def rewind(self, step: int, metrics_bytes: int) -> None:
        """Forget what was logged after the checkpoint that the run goes on from: it will be logged again."""
        metrics, timing = self.folder / "metrics.jsonl", self.folder / "timing.jsonl"
        metrics.touch()
        os.truncate(metrics, metrics_bytes)
        if timing.exists():
            lines = [
                line
                for line in timing.read_text().splitlines()
                if line.endswith("}") and json.loads(line)["step"] <= step
            ]
            timing.write_text("".join(line + "\n" for line in lines))
