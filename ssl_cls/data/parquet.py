"""Parquet and Arrow files with the bytes of an image a row, as Hugging Face's `datasets` writes them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ssl_cls.data import cache
from ssl_cls.data.listing import Found
from ssl_cls.data.manifest import ROW_RULES, Row, from_slices, row_of
from ssl_cls.data.shards import common_folder, placed, split_of
from ssl_cls.errors import UserError

_LABELS = ("label", "labels")
_IMAGES = ("image", "img")
_ROWS = 256  # read at a time


def list_parquet(name: str, files: list[Path]) -> Found:
    """The images of Parquet files, or of Arrow files as `save_to_disk` writes them: a column `image` or `img` of bytes,
    or of structures with `bytes`; beside it label or labels, split and group, if there are such. A column of another
    name is taken where `datasets` says that it alone holds images or classes. A file whose name begins with train,
    val or test, or in a folder of that name, is of that split.

    Rows of a Parquet file cannot be read one by one, so the bytes of all images are written once, one after the
    other, to the cache ($XDG_CACHE_HOME), and read from there at random.

    Raises:
        UserError: pyarrow is not installed, a file cannot be read, there are no images, or no room for the cache.
    """
    rows: list[Row] = []
    slices: list[tuple[int, int, int]] = []
    files, root = [file for file in files if _is_data(file)], common_folder(files)
    blobs = [_unpacked(file.absolute()) for file in files]
    for number, (file, blob) in enumerate(zip(files, blobs, strict=True)):
        for path, labels, split, group, start, size in json.loads(_index(blob).read_text(encoding="utf-8")):
            rows.append(placed(Row(path, None if labels is None else tuple(labels), split, group), file, root))
            slices.append((number, start, size))
    if not rows:
        raise UserError("there are no images in these files", str(root), "give files that have rows")
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


def _is_data(file: Path) -> bool:
    """Whether a file holds a data set, and is not what `datasets` keeps beside one that it has saved."""
    state = file.parent / "state.json"
    if file.suffix.lower() != ".arrow" or not state.exists():
        return True
    try:
        return file.name in {own["filename"] for own in json.loads(state.read_text(encoding="utf-8"))["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "save the data set again with save_to_disk"
        raise UserError(f"does not say which files are data: {error!r}", str(state), fix) from error


def _images(file: Path) -> Iterator[tuple[Row, bytes]]:
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise UserError(
            f"{file.suffix[1:].capitalize()} needs pyarrow", str(file), "pip install 'ssl_cls[parquet]'"
        ) from error
    try:
        schema, read = _reader(file)
        features = _features(schema.metadata or {})
        image = _column("Image", _IMAGES, schema.names, features, file)
        if image is None:
            raise UserError(f"no column `image`, but {', '.join(sorted(schema.names))}", str(file), "rename it")
        label = _column("ClassLabel", _LABELS, schema.names, features, file)
        several = label is not None and str(schema.field(label).type).startswith(("list", "large_list"))
        columns = {name: name for name in ("split", "group") if name in schema.names}
        if label is not None:
            columns[label] = "labels" if several else "label"
        names = _class_names(features.get(label or ""))
        number = 0
        for batch in read([image, *columns]):
            for values in batch.to_pylist():
                stored = values.pop(image)
                content = stored.get("bytes") if isinstance(stored, dict) else stored
                known = {columns[key]: _named(own, names) if key == label else own for key, own in values.items()}
                where = f"{file}: row {number}"
                row = row_of({"split": split_of(file.name)} | known | {"path": f"{file.name}/{number}"}, where)
                if not isinstance(content, bytes):
                    raise UserError("an image without bytes", where, "save it with the images embedded")
                yield row, content
                number += 1
    except (ArrowException, OSError) as error:
        kind = "Arrow stream" if file.suffix.lower() == ".arrow" else "Parquet file"
        raise UserError(f"not a {kind} that can be read: {error}", str(file), "make it again") from error


def _reader(file: Path) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """The schema of a file, and what reads some of its columns, some rows at a time."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if file.suffix.lower() != ".arrow":
        stored = ParquetFile(file)
        return stored.schema_arrow, lambda columns: stored.iter_batches(_ROWS, columns=columns)
    stream = pa.ipc.open_stream(pa.memory_map(str(file)))
    return stream.schema, lambda columns: (
        part for batch in stream for part in pa.table(batch.select(columns)).to_batches(_ROWS)
    )


def _column(kind: str, usual: tuple[str, ...], present: list[str], features: dict[str, Any], file: Path) -> str | None:
    """The column of a usual name; else the only one that `datasets` knows to be of that kind; None if there is none."""
    if named := [name for name in usual if name in present]:
        return named[0]
    known = [name for name in present if isinstance(own := features.get(name), dict) and own.get("_type") == kind]
    if len(known) > 1:
        what = f"which of {', '.join(known)} is `{usual[0]}`?"
        raise UserError(what, str(file), f"write the file with the one that is meant renamed to {usual[0]}")
    return known[0] if known else None


def _named(value: Any, names: list[str]) -> Any:
    """A label as a person calls it. Below 0 is unknown."""
    if isinstance(value, list):
        return [_named(own, names) for own in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return -1 if value < 0 else names[value] if value < len(names) else value
    return value


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What `datasets` says of each column, beside the schema; {} where it says nothing."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> list[str]:
    """Of a column of classes, or of lists of them; [] where there are none."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    if not isinstance(feature, dict):
        return []
    names = feature.get("names")
    return [str(name) for name in names] if isinstance(names, list) else _class_names(feature.get("feature"))
