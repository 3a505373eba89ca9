"""Features for other programs: a matrix of numbers, and a table that says which image each row is of."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from eval.base import Context, Encoder, EvalData
from eval.comparison import record
from eval.comparison.rows import predictions
from eval.features import OWN, available, check_poolings, extract
from eval.whole import whole
from ssl_cls.data.files import Files, shown
from ssl_cls.data.source import Source, Subset, all_labels
from ssl_cls.spec import spec


@spec
class Features:
    """Which features are written: of each layer (-1: the last) with each pooling ("own": the encoder's), as far as the
    architecture has them, side by side."""

    layers: tuple[int, ...] = (-1,)
    poolings: tuple[str, ...] = ("own",)

    def __post_init__(self) -> None:
        check_poolings(self.poolings)


def write_features(encoder: Encoder, data: EvalData, context: Context, which: Features | None = None) -> None:
    """For each split, into eval/features: train.npy, float32 [N, D]; train_labels.npy, int64 [N] or float [N, K]; and
    train.parquet, where pyarrow is installed, else train.csv: a row an image, with its number in the split, its file
    where it has one, its label or labels, and, on test, the class, or the list of labels, that each evaluation so far
    has answered. An unlabelled image has label -1 and no class. Every rank must call it.

    Raises:
        UserError: the architecture has none of these layers and poolings.
    """
    cuts = available(encoder, which.layers, which.poolings) if which else OWN
    folder = encoder.out / "features"
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("train", data.train), ("val", data.val), ("test", data.test)):
        features, labels = extract(encoder, source, context, cuts), all_labels(source)
        if context.rank:
            continue
        for part, values in ((name, features), (f"{name}_labels", labels)):
            with whole(folder / f"{part}.npy") as path, path.open("wb") as file:
                np.save(file, values.numpy())
        files = _paths(source)
        columns: dict[str, list[Any]] = {
            "image": list(range(len(source))),
            **({"path": files} if files else {}),
            **_labels(source, labels),
        }
        if name == "test":
            columns |= _answers(encoder.out, data)
        _write(folder / name, columns)


def _paths(source: Source) -> list[str] | None:
    """The file of each image, below the data's root; None where images are no files of their own."""
    if isinstance(source, Files):
        return [shown(path) for path in source.paths()]
    base = getattr(source, "base", None)  # of a part, or of an image shown in other channels
    found = None if base is None else _paths(base)
    return [found[number] for number in source.numbers.tolist()] if found and isinstance(source, Subset) else found


def _labels(source: Source, labels: Tensor) -> dict[str, list[Any]]:
    names = source.class_names or [str(number) for number in range(source.num_classes or 0)]
    if labels.ndim == 2:
        return {f"is {name}": column for name, column in zip(names, labels.int().T.tolist(), strict=True)}
    return {"label": labels.tolist(), "class": [names[label] if label >= 0 else "" for label in labels.tolist()]}


def _answers(out: Path, data: EvalData) -> dict[str, list[Any]]:
    rows = record.read(out / "results.jsonl", out.parent) if (out / "results.jsonl").is_file() else ()
    found = {Path(row.stem).name: predictions(row) for row in rows if row.dataset == data.name}
    names = data.test.class_names or [str(number) for number in range(data.num_classes)]
    return {
        name: answers.tolist()
        if answers.ndim == 1
        else [[names[k] for k in np.flatnonzero(own > 0)] for own in answers]
        for name, answers in sorted(found.items())
        if answers is not None and len(answers) == len(data.test)
    }


def _write(stem: Path, columns: dict[str, list[Any]]) -> None:
    if importlib.util.find_spec("pyarrow"):
        import pyarrow
        import pyarrow.parquet

        with whole(stem.with_suffix(".parquet")) as path:
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return
    with whole(stem.with_suffix(".csv")) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
