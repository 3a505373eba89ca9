"""Label-efficiency curves: closed-form crossings, and only what was measured."""

import math
from typing import Any

import numpy as np
import pytest

from eval.comparison.compare import compare
from eval.comparison.efficiency import Curve, crossing, panels
from eval.comparison.record import Row
from eval.comparison.stats import Interval


def curve(label: str, points: dict[int, float], kind: str = "pretrained") -> Curve:
    return Curve(label, kind, {n: Interval(mean, 3, 1, 0.3, 2) for n, mean in points.items()})


def test_a_crossing_of_straight_lines_is_where_they_meet() -> None:
    """In log(labels): 80 + 5 t against 60 + 15 t, t = log10(n / 10), meet at t = 2."""
    counts = (10, 100, 10_000, 100_000)
    ours = curve("simclr", {n: 80 + 5 * math.log10(n / 10) for n in counts})
    scratch = curve("scratch", {n: 60 + 15 * math.log10(n / 10) for n in counts}, "scratch")
    found = crossing(ours, scratch)
    assert found is not None
    assert found.labels == pytest.approx(1000)
    assert found.top1 == pytest.approx(90)
    assert scratch.labels_for(80.0) == pytest.approx(10 ** (1 + 20 / 15))
    assert scratch.at(1000) == pytest.approx(90)


@pytest.mark.parametrize("points", [{10: 70.0, 100: 85.0}, {10: 50.0, 100: 60.0}, {10: 50.0, 100: 85.0}, {10: 90.0}])
def test_without_a_lead_that_is_lost_there_is_no_crossing(points: dict[int, float]) -> None:
    assert crossing(curve("simclr", points), curve("scratch", {10: 60.0, 100: 80.0}, "scratch")) is None


def test_nothing_is_said_beyond_what_was_measured() -> None:
    scratch = curve("scratch", {10: 60.0, 100: 80.0}, "scratch")
    assert scratch.at(5) is None
    assert scratch.at(101) is None
    assert scratch.labels_for(59.0) is None
    assert scratch.labels_for(80.1) is None


def row(method: str, evaluator: str, n: int | None, top1: float, draw: int = 0) -> Row:
    values: dict[str, Any] = {
        "run": f"{method}-seed0",
        "method": method,
        "backbone": "" if method == "pixels" else "cnn",
        "encoder_sha256": method,
        "seed": 0,
        "images_seen": 9 * (method == "simclr"),
        "view_forwards": 0,
        "evaluator": evaluator,
        "dataset": "digits",
        "n_labels": n,
        "draw": None if n is None else draw,
        "n_train": n or 1437,
        "n_test": 1000,
        "top1": top1,
        "seconds": None,
        "correct": None,
        "where": "x:1",
        "folder": None,
        "record": {"device": "cpu", "metrics": {}},
    }
    return Row(**values)


ROWS = [
    *(row("simclr", "fewlabel/v1", n, top1, draw) for n, top1 in ((10, 60), (100, 80)) for draw in range(2)),
    row("simclr", "linear/v1", None, 90),
    *(row("pixels", "fewlabel/v1", n, top1) for n, top1 in ((10, 40), (100, 70))),
    *(row("simclr", "finetune/v1", n, top1) for n, top1 in ((10, 62), (100, 81))),
    *(row("random", "finetune/v1", n, top1) for n, top1 in ((10, 50), (100, 84))),
    row("random", "knn/v1", None, 70),
]


def test_panels_hold_what_was_measured_and_scratch_is_in_both() -> None:
    (group,) = compare(ROWS)
    frozen, tuned = panels(group)
    shown = {x.label: {n: cell.mean for n, cell in x.points.items()} for x in frozen.curves}
    assert shown == {
        "pixels": {10: 40, 100: 70},
        "simclr": {10: 60, 100: 80, 1437: 90},  # all labels: as many as there are
        "scratch": {10: 50, 100: 84},
    }
    assert {x.label for x in tuned.curves} == {"simclr", "scratch"}
    assert next(x for x in frozen.curves if x.label == "simclr").points[10].n == "1×2"
    (mark,) = tuned.crossings
    assert mark.labels == pytest.approx(10 * 10 ** (12 / 15))
    assert "Scratch catches up with simclr, fine-tuned, at about 63 labels." in tuned.sentences
    expected = 10 * 10 ** (12 / 34)
    assert f"What simclr, fine-tuned, does with 10 labels takes scratch about {expected:.0f}." in tuned.sentences


def test_variants_are_on_no_curve() -> None:
    (group,) = compare([*ROWS, row("simclr", "finetune/v1 strategy=head", 100, 99)])
    tuned = panels(group)[1]
    assert next(x for x in tuned.curves if x.label == "simclr").points[100].mean == 81


def test_one_number_of_labels_is_no_curve() -> None:
    (group,) = compare([x for x in ROWS if x.n_labels == 10])
    assert panels(group) == []


def test_without_scratch_there_are_curves_and_nothing_is_said() -> None:
    (group,) = compare([x for x in ROWS if x.method != "random"])
    assert [panel.sentences for panel in panels(group)] == [[], []]
    assert np.all([not panel.crossings for panel in panels(group)])
