"""Confusions are scikit-learn's; mistakes are those that runs agree on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from eval.comparison import rows as rows_module
from eval.comparison.compare import compare
from eval.comparison.lines import Column
from eval.comparison.rows import collect
from eval.report import answers
from eval.report.answers import Answers

COLUMN = Column("finetune/v1", 100)


def test_a_confusion_is_scikit_learn_s_over_all_runs() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 500)
    given = np.where(rng.random((3, 500)) < 0.6, labels, rng.integers(0, 7, (3, 500)))
    found = answers.confusion(Answers("x", COLUMN, given), labels, [f"c{k}" for k in range(7)])
    expected = confusion_matrix(np.tile(labels, 3), given.ravel(), normalize="true")
    np.testing.assert_allclose(found.percent, 100 * expected)
    assert found.names == [f"c{k}" for k in range(7)]


def test_of_many_classes_those_with_the_most_errors_are_shown() -> None:
    labels = np.repeat(np.arange(40), 10)
    given = labels.copy()
    given[labels == 37] = 0
    given[labels == 5] = 6
    found = answers.confusion(Answers("x", COLUMN, given[None]), labels, [str(k) for k in range(40)])
    assert found.percent.shape == (16, 16)
    assert {"37", "5"} <= set(found.names)
    assert found.names == sorted(found.names, key=int)


def test_mistakes_are_those_that_most_runs_agree_on_one_of_each_kind_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    given = np.array([[1, 1, 0, 2, 1, 2], [1, 1, 0, 0, 1, 2], [1, 1, 0, 0, 1, 0]])
    found = answers.mistakes(Answers("x", COLUMN, given), labels, 3, most=4)
    assert [(x.image, x.true, x.taken_for) for x in found] == [(0, 0, 1), (1, 0, 1), (3, 1, 0), (5, 2, 0)]
    assert [x.share for x in found] == [1, 1, pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert answers.mistakes(Answers("x", COLUMN, labels[None]), labels, 3, most=4) == []


def test_the_best_method_stands_against_scratch_on_the_most_labels(
    synthetic_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, rng = np.arange(360) % 10, np.random.default_rng(0)
    monkeypatch.setattr(rows_module, "_test_labels", lambda dataset, runs: labels)
    runs = []
    for method, level in (("simclr", 0.7), ("mae", 0.9), ("random", 0.5)):
        results = [
            {"evaluator": "finetune/v1", "n_labels": n, "draw": draw, "correct": rng.random(360) < level}
            for n in (10, 100)
            for draw in range(2)
        ]
        results.append({"evaluator": "ridge/v1", "correct": rng.random(360) < level})
        head = {"evaluator": "finetune/v1 strategy=head", "n_labels": 1000, "draw": 0}
        results.append({**head, "correct": rng.random(360) < level})
        runs.append(synthetic_run(method, method, results, labels=labels))
    best, scratch = answers.best_and_scratch(compare(collect(runs))[0])
    assert (best.label, scratch.label) == ("mae", "scratch")
    assert best.column == scratch.column == COLUMN
    assert best.given.shape == (2, 360)
    assert answers.best_and_scratch(compare(collect(runs[:1]))[0])[0].label == "simclr"  # alone
