"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when all went well."""
    writing = path.with_name(f".{path.name}.tmp")
    yield writing
    writing.replace(path)
