"""Rows of known accuracies, and the one group that they make."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from eval.comparison.compare import Group, compare
from eval.comparison.record import Row

N = 1000


def correct(count: int, start: int = 0) -> np.ndarray:
    """`count` of N images right, beginning at `start`."""
    return np.roll(np.arange(N) < count, start)


def row(
    method: str,
    evaluator: str,
    right: np.ndarray | None,
    *,
    seed: int = 0,
    top1: float | None = None,
    **changes: Any,
) -> Row:
    pretrained = method not in ("pixels", "random")
    values: dict[str, Any] = {
        "run": f"{method}_recipe-seed{seed}",
        "method": method,
        "seed": seed,
        "backbone": "" if method == "pixels" else "resnet_small",
        "encoder_sha256": f"{method}{seed}",
        "images_seen": 5000 * pretrained,
        "view_forwards": 10_000 * pretrained,
        "seconds": None,
        "evaluator": evaluator,
        "dataset": "fashion_mnist",
        "n_labels": None,
        "draw": None,
        "n_train": 60_000,
        "n_test": N,
        "top1": top1 if right is None else 100 * float(right.mean()),
        "correct": right,
        "where": f"{method}{seed}:1",
        "folder": None,
        "record": {"device": "cpu", "metrics": {}},
    }
    return Row(**{**values, **changes})


def finetuned(method: str, right: np.ndarray | None, n: int = 600, draw: int = 0, **changes: Any) -> Row:
    return row(method, "finetune/v1", right, n_labels=n, draw=draw, n_train=n, **changes)


def only(rows: Iterable[Row]) -> Group:
    (group,) = compare(list(rows))
    return group


def line(group: Group, label: str) -> Any:
    return next(line for line in group.lines if line.label == label)
