"""A line of results.jsonl or of a committed suite file, checked."""

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from eval.base import PLACE, stem
from ssl_cls.errors import UserError

_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("run", "method", "backbone", "encoder_sha256", "evaluator", "dataset"), (str,)),
    **dict.fromkeys(("chosen_on", "device"), (str,)),
    **dict.fromkeys(("seed", "n_train", "n_test"), (int,)),
    **dict.fromkeys(("n_labels", "draw"), (int, type(None))),
    **dict.fromkeys(("pretrain", "settings", "metrics"), (dict,)),
}


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
    record: dict[str, Any] = field(repr=False)  # the line, without what committing adds
    resampled: NDArray[np.float64] | None = None  # [samples]: mAP of resampled test images, the same for every row
    best_on_test: float | None = None  # top-1 of the setting that is best on test; nothing reads it for choosing

    @property
    def stem(self) -> str:
        return stem(*(getattr(self, key) for key in PLACE))

    @property
    def measure(self) -> str:
        """What tables show, and settings were chosen by: "mAP" where an image has several labels, else "top-1"."""
        return "mAP" if "mAP" in self.record["metrics"] else "top-1"

    @property
    def score(self) -> float:
        """Percent of `measure`."""
        return float(self.record["metrics"].get("mAP", self.top1))

    def kept(self, folder: str, suffix: str = "") -> Path | None:
        """What is beside the row in `folder` of its run, eval/predictions say; None where there is nothing.

        Before a run could be judged on several data sets their names were not in the paths.
        """
        names = (self.stem, Path(self.stem).name)
        paths = (self.folder / folder / f"{name}{suffix}" for name in names if self.folder)
        return next((path for path in paths if path.exists()), None)


def read(path: Path, folder: Path | None = None, seconds: float | None = None) -> Iterator[Row]:
    """The rows of a file. A committed line's own `seconds` and `correct` go before what is passed.

    Raises:
        UserError: an unreadable file or a malformed line, named as file:line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the result rows: {error}", str(path), "evaluate again") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _row(line, f"{path}:{number}", folder, seconds)


def agrees(correct: NDArray[np.bool_], n_test: int, top1: float) -> bool:
    """Whether these could be the images that make up a row's accuracy: to within half an image."""
    return correct.shape == (n_test,) and abs(100 * float(correct.mean()) - top1) < 50 / n_test + 1e-4


def _row(line: str, where: str, folder: Path | None, seconds: float | None) -> Row:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        _malformed(where, str(error))
    if not isinstance(record, dict):
        _malformed(where, "not an object")
    own_seconds, packed, best, resampled = (
        record.pop(key, None) for key in ("seconds", "correct", "best_on_test", "resampled")
    )
    for key, value in (("seconds", own_seconds), ("best_on_test", best)):
        if value is not None and not _is_number(value):
            _malformed(where, f"{key} must be a number or null")
    _check(record, where)
    n_test, top1 = record["n_test"], float(record["metrics"]["top1"])
    names = (
        "run",
        "method",
        "backbone",
        "encoder_sha256",
        "seed",
        "evaluator",
        "dataset",
        "n_labels",
        "draw",
        "n_train",
    )
    return Row(
        **{name: record[name] for name in names},
        images_seen=record["pretrain"]["images_seen"],
        view_forwards=record["pretrain"]["view_forwards"],
        n_test=n_test,
        top1=top1,
        seconds=seconds if own_seconds is None else own_seconds,
        correct=None if packed is None else _unpacked(packed, n_test, top1, where),
        where=where,
        folder=folder,
        record=record,
        best_on_test=best,
        resampled=None if resampled is None else _unpacked_percents(resampled, where),
    )


def _check(record: dict[str, Any], where: str) -> None:
    for key, types in _TYPES.items():
        value = record.get(key, ...)
        if not isinstance(value, types) or isinstance(value, bool):
            _malformed(where, f"{key} is {'missing' if value is ... else f'{value!r:.60}'}")
        if isinstance(value, str) and not value.isprintable():
            _malformed(where, f"{key} contains control characters: {value!r:.60}")
    if record["n_test"] < 1:
        _malformed(where, "n_test must be positive")
    for key in ("images_seen", "view_forwards"):
        if type(record["pretrain"].get(key)) is not int:
            _malformed(where, f"pretrain.{key} must be an integer")
    for name in ("top1", *({"mAP"} & set(record["metrics"]))):
        value = record["metrics"].get(name)
        if not _is_number(value) or not 0 <= value <= 100:
            _malformed(where, f"metrics.{name} must be a percentage, not {value!r:.60}")


def packed(correct: NDArray[np.bool_]) -> str:
    """Base64 of the bits, eight images a byte, the first in the highest bit."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def _unpacked(text: object, n_test: int, top1: float, where: str) -> NDArray[np.bool_]:
    try:
        raw = base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        _malformed(where, "correct is not base64")
    if len(raw) != -(-n_test // 8):
        _malformed(where, f"correct holds {len(raw)} bytes, {n_test} test images need {-(-n_test // 8)}")
    correct = np.unpackbits(np.frombuffer(raw, np.uint8), count=n_test).astype(np.bool_)
    if not agrees(correct, n_test, top1):
        _malformed(where, f"correct says {100 * correct.mean():.2f} % are right, metrics.top1 says {top1:.2f}")
    return correct


def packed_percents(values: NDArray[np.float64]) -> str:
    """Base64 of float32, little-endian."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _unpacked_percents(text: object, where: str) -> NDArray[np.float64]:
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        _malformed(where, "resampled is not base64 of float32")
    if not len(values) or not ((values >= 0) & (values <= 100)).all():
        _malformed(where, "resampled must be percentages")
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _malformed(where: str, reason: str) -> NoReturn:
    raise UserError(f"malformed result row: {reason}", where, "evaluate again, or remove the line")
