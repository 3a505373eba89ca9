"""Result rows: collected from run directories and committed suite files, and written for committing.

A committed row is a row of results.jsonl with more keys, so that every table and paired test can be made
again without weights, data or predictions: `seconds` (of pretraining, or null), `correct` (which test images
were classified correctly, as packed bits in base64; null where unknown) and, where they are known, `best_on_test`
(what choosing on the test set would have claimed) and, of several labels an image, `resampled` (mAP of resampled test
images, as float32 in base64).
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from eval.comparison import record
from eval.comparison.record import Row
from eval.comparison.stats import resampled_map
from ssl_cls import config
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.entries import ENTRIES
from ssl_cls.data.source import all_labels, labelled
from ssl_cls.errors import UserError
from ssl_cls.health import Verdict

log = logging.getLogger(__name__)

T = TypeVar("T")


def collect(sources: Sequence[Path]) -> list[Row]:
    """The rows of run directories and of committed .jsonl files, in the order given.

    Sources without rows are passed over by name: `runs/*` has runs in it that are not judged yet, and comparisons.

    Raises:
        UserError: a source that is neither, no row in any, or a malformed line (named as file:line).
    """
    runs = [source for source in sources if source.is_dir()]
    labels_of = cache(lambda dataset: _test_labels(dataset, runs))
    rows = []
    for source in sources:
        if source.is_dir():
            path = source / "eval" / "results.jsonl"
            found = list(record.read(path, source, _seconds(source))) if path.is_file() else []
            found = [
                replace(
                    row,
                    correct=_correct(row, labels_of(row.dataset)),
                    resampled=_resampled(row, labels_of(row.dataset)),
                    best_on_test=_best_on_test(row),
                )
                for row in found
            ]
        elif source.is_file():
            found = list(record.read(source))
        else:
            raise UserError("no such run directory or file", str(source), "give run directories or results/*.jsonl")
        if not found:
            log.warning("%s: no result rows here, passed over", source)
        rows += found
    if not rows:
        where = ", ".join(map(str, sources))
        raise UserError("no result rows here", where, "evaluate first: python tools/evaluate.py RUNDIR")
    return rows


def export(rows: Sequence[Row], path: Path) -> None:
    """Write the committed file of a suite: each row once, a line each, sorted: same rows, same bytes."""
    lines = []
    for row in rows:
        correct = None if row.correct is None else record.packed(row.correct)
        known: dict[str, Any] = {} if row.best_on_test is None else {"best_on_test": row.best_on_test}
        if row.resampled is not None:
            known["resampled"] = record.packed_percents(row.resampled)
        entry = {**row.record, "seconds": row.seconds, "correct": correct, **known}
        lines.append(json.dumps(entry, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in sorted(set(lines))), encoding="utf-8")
    partial.replace(path)


def _best_on_test(row: Row) -> float | None:
    """None where there was one setting, so nothing to choose, or settings are not chosen by top-1."""
    scores = optimism(row)
    return max(scores) if len(scores) > 1 and row.measure == "top-1" else None


def predictions(row: Row) -> NDArray[Any] | None:
    """What the encoder answered for each test image, int64 [n_test], or where an image has several labels the score of
    each, float32 [n_test, K], above zero where it is an answer; None where it was not kept."""
    path = row.kept("eval/predictions", ".npy")
    if path is None:
        return None
    try:
        answers = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read the predictions: {error}", str(path), "evaluate again") from error
    several = row.measure == "mAP" and answers.ndim == 2 and answers.dtype == np.float32
    if len(answers) != row.n_test or not (several or (answers.ndim == 1 and answers.dtype == np.int64)):
        found = f"expected {row.n_test} int64 predictions, found {answers.dtype} {answers.shape}"
        raise UserError(found, str(path), "evaluate again")
    return np.asarray(answers)


def optimism(row: Row) -> list[float]:
    """The test top-1 of every setting that was tried, for looking back only; empty where it was not kept."""
    path = row.folder / "eval" / "optimism.json" if row.folder else None
    if path is None or not path.is_file():
        return []
    try:
        tried = json.loads(path.read_text(encoding="utf-8"))
        scores = tried.get(row.stem) or tried.get(Path(row.stem).name, [])  # without the data set, as in Row.kept
        return [float(entry["top1"]) for entry in scores]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"malformed test scores: {error!r}", str(path), "evaluate again, or remove the file") from error


def data_config(dataset: str, runs: Sequence[Path]) -> DataConfig | None:
    """How to open `dataset`: as a run's recipe says, or by name where it is one that needs no path."""
    for run in runs:
        try:
            data = config.load(run / "recipe.yaml").data
        except UserError:
            continue
        if dataset in (data.source, Path(data.path or "").resolve().name):
            return data
    return DataConfig(source=dataset) if dataset in ENTRIES else None


def health(run: Path) -> Verdict | None:
    """How pretraining went, as the run itself judged at its end; None where it does not say."""
    return _provenance(run, "health", lambda said: Verdict(**said))


def _seconds(run: Path) -> float | None:
    return _provenance(run, "seconds", float)


def _provenance(run: Path, key: str, read: Callable[[Any], T]) -> T | None:
    path = run / "encoder" / "provenance.json"
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8")).get(key)
        return None if said is None else read(said)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"malformed provenance: {error!r}", str(path), "pretrain again") from error


def _test_labels(dataset: str, runs: Sequence[Path]) -> NDArray[Any] | None:
    data = data_config(dataset, runs)
    if data is None:
        return None
    try:
        return np.asarray(all_labels(labelled(catalog.open(data, "test"))))
    except UserError:
        return None  # the data are no longer there: tables can be made, paired tests cannot


def _resampled(row: Row, labels: NDArray[Any] | None) -> NDArray[np.float64] | None:
    """mAP of resampled test images; None of one class an image, and where scores or labels are gone."""
    scores = predictions(row) if row.measure == "mAP" else None
    return None if scores is None or labels is None or scores.shape != labels.shape else resampled_map(scores, labels)


def _correct(row: Row, labels: NDArray[Any] | None) -> NDArray[np.bool_] | None:
    """Which test images are right; None where predictions or labels are gone or belong to other data."""
    answers = predictions(row)
    if answers is None or answers.ndim > 1 or labels is None or labels.shape != answers.shape:
        return None
    correct = answers == labels
    return correct if record.agrees(correct, row.n_test, row.top1) else None
