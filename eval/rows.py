"""Result rows: read from run directories and from committed suite files, checked line by line, and written for committing.

A committed row is a row of results.jsonl with two more keys, so that every table and paired test can be made again
without weights, data or predictions: `seconds` (of pretraining, or null) and `correct` (base64 of the bits, packed
most significant first, that say which test images were classified correctly; null where unknown).
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ssl_cls import config
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import all_labels
from ssl_cls.errors import UserError

_NUMBER = (int, float)
_REQUIRED: dict[str, tuple[type, ...]] = {
    "run": (str,), "method": (str,), "backbone": (str,), "encoder_sha256": (str,), "seed": (int,), "pretrain": (dict,),
    "evaluator": (str,), "settings": (dict,), "dataset": (str,), "n_labels": (int, type(None)), "draw": (int, type(None)),
    "n_train": (int,), "n_test": (int,), "metrics": (dict,), "chosen_on": (str,), "device": (str,),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One evaluation of one encoder: what tables need of a line, and the line itself."""

    run: str
    method: str
    backbone: str
    encoder_sha256: str
    seed: int
    images_seen: int
    view_forwards: int
    evaluator: str  # versioned: "knn/v1"
    dataset: str
    n_labels: int | None  # None: all
    draw: int | None
    n_train: int
    n_test: int
    top1: float  # percent
    seconds: float | None  # of pretraining
    correct: NDArray[np.bool_] | None  # [n_test]
    where: str  # "runs/x-seed0/eval/results.jsonl:3"
    folder: Path | None  # the run directory; None: a committed row
    record: dict[str, Any] = field(repr=False)  # the line, without `seconds` and `correct`


def collect(sources: Sequence[Path]) -> list[Row]:
    """The rows of run directories and of committed .jsonl files, in the order given.

    Raises:
        UserError: a source that is neither, that has no rows, or a malformed line (named as file:line).
    """
    runs = [source for source in sources if source.is_dir()]
    labels: dict[str, NDArray[np.int64] | None] = {}

    def labels_of(dataset: str) -> NDArray[np.int64] | None:
        if dataset not in labels:
            labels[dataset] = _test_labels(dataset, runs)
        return labels[dataset]

    rows = []
    for source in sources:
        found = list(_of_run(source, labels_of) if source.is_dir() else _of_file(source))
        if not found:
            raise UserError("no result rows here", str(source), "evaluate first: python tools/evaluate.py RUNDIR")
        rows += found
    return rows


def export(rows: Sequence[Row], path: Path) -> None:
    """Write the committed file of a suite: a line a row, sorted, so that the same rows are the same bytes."""
    lines = []
    for row in rows:
        packed = None if row.correct is None else base64.b64encode(np.packbits(row.correct).tobytes()).decode()
        lines.append(json.dumps({**row.record, "seconds": row.seconds, "correct": packed}, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in sorted(lines)), encoding="utf-8")
    partial.replace(path)


def data_config(dataset: str, runs: Sequence[Path]) -> DataConfig | None:
    """How to open `dataset`: as a run's recipe says, or by its name alone when it is one that needs no path."""
    for run in runs:
        try:
            data = config.load(run / "recipe.yaml", []).data
        except UserError:
            continue
        if data.source == dataset:
            return data
    if dataset in get_args(get_type_hints(DataConfig)["source"]) and dataset != "folder":
        return DataConfig(source=dataset)  # type: ignore[arg-type]
    return None


def _test_labels(dataset: str, runs: Sequence[Path]) -> NDArray[np.int64] | None:
    data = data_config(dataset, runs)
    if data is None:
        return None
    try:
        return np.asarray(all_labels(catalog.open(data, "test")))
    except UserError:
        return None  # the data are no longer there: tables can be made, paired tests cannot


def _of_run(run: Path, labels_of: Callable[[str], NDArray[np.int64] | None]) -> Iterator[Row]:
    path = run / "eval" / "results.jsonl"
    if not path.is_file():
        return
    seconds = _seconds(run)
    for where, record in _records(path):
        row = _row(record, where, seconds, run)
        yield replace(row, correct=_correct(row, run, labels_of(row.dataset)))


def _of_file(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise UserError("no such run directory or result file", str(path), "give run directories or results/*.jsonl")
    for where, record in _records(path):
        seconds, packed = record.pop("seconds", None), record.pop("correct", None)
        if seconds is not None and (not isinstance(seconds, _NUMBER) or isinstance(seconds, bool)):
            _malformed(where, "seconds must be a number or null")
        row = _row(record, where, seconds, None)
        yield row if packed is None else replace(row, correct=_unpack(packed, row))


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the result rows: {error}", str(path), "evaluate again") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line, parse_constant=lambda name: _malformed(where, f"{name} is not a number"))
        except (ValueError, RecursionError) as error:
            _malformed(where, str(error))
        if not isinstance(record, dict):
            _malformed(where, "not an object")
        yield where, record


def _row(record: dict[str, Any], where: str, seconds: float | None, folder: Path | None) -> Row:
    for key, types in _REQUIRED.items():
        value = record.get(key, ...)
        if not isinstance(value, types) or isinstance(value, bool):
            _malformed(where, f"{key} is {'missing' if value is ... else f'{value!r:.60}'}")
        if isinstance(value, str) and not value.isprintable():
            _malformed(where, f"{key} contains control characters: {value!r:.60}")
    if record["n_test"] < 1:
        _malformed(where, "n_test must be positive")
    pretrain, top1 = record["pretrain"], record["metrics"].get("top1")
    for key in ("images_seen", "view_forwards"):
        if type(pretrain.get(key)) is not int:
            _malformed(where, f"pretrain.{key} must be an integer")
    if not isinstance(top1, _NUMBER) or isinstance(top1, bool) or not 0 <= top1 <= 100:
        _malformed(where, f"metrics.top1 must be a percentage, not {top1!r:.60}")
    names = ("run", "method", "backbone", "encoder_sha256", "seed", "evaluator", "dataset", "n_labels", "draw", "n_train", "n_test")
    return Row(
        **{name: record[name] for name in names},
        images_seen=pretrain["images_seen"],
        view_forwards=pretrain["view_forwards"],
        top1=float(top1),
        seconds=seconds,
        correct=None,
        where=where,
        folder=folder,
        record=record,
    )


def _malformed(where: str, reason: str) -> NoReturn:
    raise UserError(f"malformed result row: {reason}", where, "evaluate again, or remove the line")


def _seconds(run: Path) -> float | None:
    path = run / "encoder" / "provenance.json"
    try:
        seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else None
        return None if seconds is None else float(seconds)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"malformed provenance: {error!r}", str(path), "pretrain again; a finished run writes it") from error


def predictions(row: Row, run: Path) -> NDArray[np.int64] | None:
    """What the encoder answered for each test image, int64 [n_test]; None where it was not kept."""
    path = run / "eval" / "predictions" / f"{_stem(row)}.npy"
    if not path.is_file():
        return None
    try:
        answers = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read the predictions: {error}", str(path), "evaluate again") from error
    if answers.shape != (row.n_test,) or answers.dtype != np.int64:
        raise UserError(f"expected {row.n_test} int64 predictions, found {answers.dtype} {answers.shape}", str(path), "evaluate again")
    return np.asarray(answers)


def optimism(row: Row) -> list[float]:
    """The test top-1 of every setting that the evaluation tried, for looking back only; empty where it was not kept."""
    path = row.folder / "eval" / "optimism.json" if row.folder else None
    if path is None or not path.is_file():
        return []
    try:
        return [float(entry["top1"]) for entry in json.loads(path.read_text(encoding="utf-8")).get(_stem(row), [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"malformed test scores: {error!r}", str(path), "evaluate again, or remove the file") from error


def _stem(row: Row) -> str:
    """What the files of an evaluation are called."""
    return row.evaluator.replace("/", "-") + ("" if row.n_labels is None else f"-n{row.n_labels}-d{row.draw}")


def _correct(row: Row, run: Path, labels: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
    """Which test images are right, or None where predictions or labels are gone or belong to other data."""
    answers = predictions(row, run)
    if answers is None or labels is None or labels.shape != answers.shape:
        return None
    correct = answers == labels
    return correct if _agrees(correct, row) else None


def _unpack(packed: object, row: Row) -> NDArray[np.bool_]:
    try:
        raw = base64.b64decode(packed, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        _malformed(row.where, "correct is not base64")
    if len(raw) != -(-row.n_test // 8):
        _malformed(row.where, f"correct holds {len(raw)} bytes, {row.n_test} test images need {-(-row.n_test // 8)}")
    correct = np.unpackbits(np.frombuffer(raw, np.uint8), count=row.n_test).astype(np.bool_)
    if not _agrees(correct, row):
        _malformed(row.where, f"correct says {100 * correct.mean():.2f} % right, metrics.top1 says {row.top1:.2f}")
    return correct


def _agrees(correct: NDArray[np.bool_], row: Row) -> bool:
    return abs(100 * float(correct.mean()) - row.top1) < 0.5 * 100 / row.n_test + 1e-4
