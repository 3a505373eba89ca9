"""Parquet files with the bytes of an image a row, as Hugging Face's `datasets` writes them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ssl_cls.data import cache
from ssl_cls.data.listing import Found
from ssl_cls.data.manifest import ROW_RULES, Row, from_slices, row_of
from ssl_cls.data.shards import split_of
from ssl_cls.errors import UserError

_LABELS = ("label", "labels")
_COLUMNS = (*_LABELS, "split", "group")
_ROWS = 256  # read at a time


def list_parquet(name: str, files: list[Path]) -> Found:
    """The images of Parquet files: a column `image` of bytes, or of structures with `bytes`; beside it label or
    labels, split and group, if there are such. A file whose name begins with train, val or test is of that split.

    Rows of a Parquet file cannot be read one by one, so the bytes of all images are written once, one after the
    other, to the cache ($XDG_CACHE_HOME), and read from there at random.

    Raises:
        UserError: pyarrow is not installed, a file cannot be read, there are no images, or no room for the cache.
    """
    rows: list[Row] = []
    slices: list[tuple[int, int, int]] = []
    blobs = [_unpacked(file.resolve()) for file in files]
    for number, blob in enumerate(blobs):
        for path, labels, split, group, start, size in json.loads(_index(blob).read_text(encoding="utf-8")):
            rows.append(Row(path, None if labels is None else tuple(labels), split, group))
            slices.append((number, start, size))
    if not rows:
        raise UserError("there are no images in these files", str(files[0].parent), "give files that have rows")
    return from_slices(name, blobs[0].parent, [file.name for file in blobs], rows, slices)


def _unpacked(file: Path) -> Path:
    """The file in the cache with the bytes of all images of `file`; its index lies beside it."""
    status = file.stat()
    blob = cache.path("parquet", f"{ROW_RULES}\0{file}\0{status.st_size}\0{status.st_mtime_ns}")
    if blob.exists() and _index(blob).exists():
        return blob
    print(f"{file}: its images are written to {blob.parent}, once", file=sys.stderr, flush=True)
    index: list[tuple[Any, ...]] = []

    def write(target: IO[bytes]) -> None:
        start = 0
        for row, content in _images(file):
            index.append((*row, start, len(content)))
            start += target.write(content)

    cache.keep(blob, write)
    text = json.dumps(index)
    cache.keep(_index(blob), lambda target: target.write(text.encode()))
    if not (blob.exists() and _index(blob).exists()):
        raise UserError("no room for the bytes of its images", str(blob.parent), "make room, or set XDG_CACHE_HOME")
    return blob


def _index(blob: Path) -> Path:
    return blob.with_suffix(".json")


def _images(file: Path) -> Iterator[tuple[Row, bytes]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError("Parquet needs pyarrow", str(file), "pip install 'ssl_cls[parquet]'") from error
    try:
        stored = ParquetFile(file)
        names = _class_names(stored.schema_arrow.metadata or {})
        present = set(stored.schema_arrow.names)
        if "image" not in present:
            raise UserError(f"no column `image`, but {', '.join(sorted(present))}", str(file), "rename it")
        number = 0
        for batch in stored.iter_batches(_ROWS, columns=["image", *(name for name in _COLUMNS if name in present)]):
            for values in batch.to_pylist():
                image = values.pop("image")
                content = image.get("bytes") if isinstance(image, dict) else image
                known = {key: _named(value, names) if key in _LABELS else value for key, value in values.items()}
                where = f"{file}: row {number}"
                row = row_of({"split": split_of(file.name)} | known | {"path": f"{file.name}/{number}"}, where)
                if not isinstance(content, bytes):
                    raise UserError("an image without bytes", where, "save it with the images embedded")
                yield row, content
                number += 1
    except (ArrowException, OSError) as error:
        raise UserError(f"not a Parquet file that can be read: {error}", str(file), "make it again") from error


def _named(value: Any, names: list[str]) -> Any:
    """A label as a person calls it. -1 is unknown."""
    if isinstance(value, list):
        return [_named(own, names) for own in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return -1 if value < 0 else names[value] if value < len(names) else value
    return value


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """Those that `datasets` keeps beside the schema; [] where there are none."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, ValueError, TypeError):
        return []
