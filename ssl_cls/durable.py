"""Folders that are there whole or not at all, whatever ends the process or the machine in between."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def sync(path: Path) -> None:
    """Of a file its content, of a folder its names: on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """A temporary folder to write files into, which becomes `folder` at the end of the block.

    Every file, then the folder itself, is on disk before the rename, and the rename before this returns.

    Raises:
        OSError: the disk is full, read-only or broken. Nothing is left of the attempt, and `folder` is as it was.
    """
    writing = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(writing, ignore_errors=True)
    try:
        writing.mkdir(parents=True)
        yield writing
        for path in (*sorted(writing.iterdir()), writing):
            sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        writing.rename(folder)
        sync(folder.parent)
    except SafetensorError as error:  # what its writer makes of any OSError
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)  # room for the next attempt
