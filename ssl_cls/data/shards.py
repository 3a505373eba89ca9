"""Tar shards in WebDataset's layout, read where they lie: an index says where in which file each image begins."""

import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_cls.data import cache, splits
from ssl_cls.data.files import below, shown
from ssl_cls.data.listing import Found
from ssl_cls.data.manifest import ROW_RULES, Row, from_slices, row_of
from ssl_cls.data.scan import ENDINGS
from ssl_cls.errors import UserError

_MAX_SIDECAR = 2**20  # bytes of one sample's .cls or .json


def list_shards(name: str, tars: list[Path]) -> Found:
    """The images of uncompressed tar files. Members of one name up to its first dot are one sample: an image, and

    KEY.cls (a class, as a number or text) or KEY.json (label or labels, split, group), if there are such. A shard
    whose name begins with train, val or test is of that split, or one in a folder of that name, unless its samples
    say otherwise.

    Raises:
        UserError: a shard that cannot be read, or no images.
    """
    root = common_folder(tars)
    rows: list[Row] = []
    slices: list[tuple[int, int, int]] = []
    for number, tar in enumerate(tars):
        for row, start, size in _indexed(tar.absolute()):
            rows.append(placed(row, tar, root))
            slices.append((number, start, size))
    if not rows:
        raise UserError("there are no images in these shards", str(root), f"of the kinds {' '.join(ENDINGS)}")
    return from_slices(name, root, [tar.absolute().relative_to(root).as_posix() for tar in tars], rows, slices)


def split_of(name: str) -> str:
    """The split that a file's name begins with (train-00000.tar, validation-0.parquet), or ""."""
    return splits.NAMES.get(name.lower().replace("_", "-").replace(".", "-").partition("-")[0], "")


def common_folder(files: Sequence[Path]) -> Path:
    """The innermost folder that all files are in, at any depth."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def placed(row: Row, file: Path, root: Path) -> Row:
    """A row of `file` with what the folders below `root` say that it is in: they begin its path, or name its split."""
    folders = file.absolute().relative_to(root).parts[:-1]
    split = row.split or next((splits.NAMES[name.lower()] for name in folders if name.lower() in splits.NAMES), "")
    return row._replace(path="/".join((*folders, row.path)), split=split)


def _indexed(tar: Path) -> list[tuple[Row, int, int]]:
    """Each image of a shard, its first byte, and its number of bytes: from the cache if the shard is as it was."""
    status = tar.stat()
    target = cache.path("shards", f"{ROW_RULES}\0{tar}\0{status.st_size}\0{status.st_mtime_ns}")
    try:
        stored = json.loads(target.read_text(encoding="utf-8"))
        return [
            (Row(path, None if labels is None else tuple(labels), split, group), start, size)
            for path, labels, split, group, start, size in stored
        ]
    except (OSError, ValueError, TypeError):
        pass
    try:
        index = _read(tar)
    except (tarfile.TarError, OSError, EOFError) as error:
        fix = "shards are uncompressed tar files: unpack .tar.gz to .tar first"
        raise UserError(f"not a shard that can be read: {error}", str(tar), fix) from error
    text = json.dumps([(*row, start, size) for row, start, size in index])
    cache.keep(target, lambda file: file.write(text.encode()))
    return index


def _read(tar: Path) -> list[tuple[Row, int, int]]:
    images: dict[str, tuple[str, int, int]] = {}
    values: dict[str, dict[str, Any]] = {}
    with tarfile.open(tar, "r:") as opened:  # "r:" reads no compression: bytes must lie where the index says
        for member in opened:
            if not member.isreg() or member.issparse():
                continue
            name = below(member.name, str(tar))
            folder, _, base = name.rpartition("/")
            stem, _, ending = base.partition(".")
            key = f"{folder}/{stem}"
            if f".{ending.lower()}" in ENDINGS:
                if key in images:
                    raise UserError(f"two images of one sample, {shown(name)}", str(tar), "give each its own name")
                images[key] = (name, member.offset_data, member.size)
            elif ending in ("cls", "json") and member.size <= _MAX_SIDECAR:
                content = opened.extractfile(member)
                assert content is not None
                values.setdefault(key, {}).update(_sidecar(content.read(), ending, f"{tar}: {shown(name)}"))
    given = split_of(tar.name)
    return [
        (row_of({"split": given} | values.get(key, {}) | {"path": f"{tar.name}/{name}"}, str(tar)), start, size)
        for key, (name, start, size) in images.items()
    ]


def _sidecar(content: bytes, ending: str, where: str) -> Mapping[str, Any]:
    try:
        text = content.decode("utf-8").strip()
        stored = {"label": text} if ending == "cls" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot be read: {error}", where, "make the shard again") from error
    if not isinstance(stored, dict):
        raise UserError("is no JSON object", where, "make the shard again")
    return {name: stored[name] for name in ("label", "labels", "split", "group") if name in stored}
