"""What is worth keeping between runs and can always be made again: headers and statistics of people's images."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def path(kind: str, key: str) -> Path:
    """Where a thing of this kind with this key is kept: $XDG_CACHE_HOME, else ~/.cache, never beside the images."""
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    return root / "ssl_cls" / kind / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]


def keep(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all; a disk that is full or read-only costs time later, and nothing else."""
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            temporary = Path(file.name)
            write(file)
        temporary.replace(target)
    except OSError:
        pass
    finally:
        if temporary is not None:  # which is nothing but where writing failed
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
