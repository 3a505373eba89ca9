"""Published rows: citable, apart from ours, their budgets said."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from eval.comparison import published, terminal
from eval.comparison.compare import compare
from eval.comparison.rows import collect
from eval.overrides import NAMES, evaluators
from ssl_cls.errors import UserError

FILE = Path(published.__file__).with_name("published.csv")
WANTED = (
    *("cifar10", "cifar100", "cub200", "fashion_mnist", "fgvc_aircraft", "flowers102", "food101", "imagenet"),
    *("imagenet100", "imagenette", "pets", "stanford_cars", "stl10"),
)


def test_every_row_has_a_source_and_a_plausible_figure() -> None:
    with FILE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    for row in rows:
        assert 0 < float(row["top1"]) < 100, row
        assert row["path"] or row["repository"] == "milestone", row
        assert "not checked against the paper" in row["note"] or "/" in row["repository"], row


@pytest.mark.parametrize("dataset", WANTED)
def test_every_data_set_has_rows_best_first(dataset: str) -> None:
    found = published.load(dataset)
    assert found
    for title, rows in found.items():
        assert {(row.dataset, row.title) for row in rows} == {(dataset, title)}
        assert [row.top1 for row in rows] == sorted((row.top1 for row in rows), reverse=True)
        assert title not in {evaluator.name for evaluator in evaluators(NAMES)[0]}  # "knn/v1" is ours alone


def test_imagenet_has_the_milestones_and_semi_supervised_rows() -> None:
    found = published.load("imagenet")
    assert {"AlexNet", "CoCa"} <= {row.backbone for row in found["supervised"]}
    assert list(found) == [
        *("kNN", "linear probe", "fine-tuned on few labels, 1 %", "fine-tuned on few labels, 10 %"),
        *("fine-tuned on all labels", "supervised"),
    ]


def test_a_name_that_is_not_there_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="no published rows of 'cifar_10'") as caught:
        published.load("cifar_10")
    assert "cifar10" in caught.value.fix


def test_unequal_budgets_are_said(synthetic_run: Callable[..., Path]) -> None:
    pretrain = {"dataset": "digits/train", "images_seen": 9, "view_forwards": 18}
    run = synthetic_run("simclr", "simclr", [{"evaluator": "knn/v1", "correct": np.ones(360)}], pretrain=pretrain)
    rows = [published.Published("digits", "linear", "", "X", "R", "cifar10", 4.0, 90.0, "a/b c", "best epoch on val")]
    said = " ".join(published.caution(rows, compare(collect([run]))))
    assert "context, not a comparison" in said
    assert "1 of these 1 are the best epoch" in said
    assert "simclr here saw 9 images, the published encoders a median of 200,000, 2.22e+04 times as many" in said


def test_the_terminal_keeps_them_in_tables_of_their_own() -> None:
    screen = io.StringIO()
    found = published.load("cifar10")
    terminal.show_published("cifar10", found, [], Console(file=screen, width=80, color_system=None), 5)
    text = screen.getvalue()
    for title, rows in found.items():
        assert f"published on cifar10, {title}: the best" in text
        assert rows[0].source.split("@")[0].split()[0][:26] in text
    assert max(map(len, text.splitlines())) <= 80
