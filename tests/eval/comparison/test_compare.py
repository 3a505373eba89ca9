"""The table: closed-form cells and differences, and what it refuses to compare."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import average_precision_score
from synthetic_rows import N, correct, finetuned, line, only, row

from eval.comparison import tables
from eval.comparison.compare import compare
from eval.comparison.record import Row
from eval.comparison.stats import resampled_map
from eval.comparison.verdict import notes, verdict
from ssl_cls.errors import UserError


def test_a_cell_is_the_mean_over_seeds_and_draws_with_student_s_interval() -> None:
    counts = {seed: 700 + 13 * seed**2 for seed in range(3)}
    group = only(finetuned("simclr", correct(count), seed=seed) for seed, count in counts.items())
    values = [count / 10 for count in counts.values()]
    low, high = scipy_stats.t.interval(0.95, 2, np.mean(values), scipy_stats.sem(values))
    (cell,) = line(group, "simclr").cells.values()
    assert cell.mean == pytest.approx(np.mean(values))
    assert cell.half_width() == pytest.approx((high - low) / 2, abs=1e-8)
    assert cell.n == "3"


def test_seeds_that_share_label_draws_are_not_taken_for_independent() -> None:
    """The draws differ by far more than seeds do: three seeds on them are no three times as many."""
    places = [(seed, draw) for seed in range(3) for draw in range(2)]
    group = only(finetuned("simclr", correct(700 + 90 * d + s), seed=s, draw=d) for s, d in places)
    (cell,) = line(group, "simclr").cells.values()
    assert (cell.n, cell.freedom) == ("3×2", 1)
    assert cell.half_width() > scipy_stats.t.ppf(0.975, 1) * 4.5


def test_of_several_labels_an_image_the_table_shows_what_settings_were_chosen_by() -> None:
    rows = [row(m, "linear/v1", None, top1=90.0, record={"device": "cpu", "metrics": {"mAP": p}})
            for m, p in (("simclr", 61.5), ("pixels", 40.0))]  # fmt: skip
    group = only(rows)
    header, lines = tables.cells(group)
    assert (header[0], lines[1][:2]) == ("mAP, %", ["simclr", "61.5 (n=1)"])
    assert any("predictions or test labels are missing" in note for note in notes(group))


def test_several_labels_an_image_are_paired_over_resampled_test_images() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((300, 4)) < 0.3
    scores = {m: labels * s + rng.normal(size=labels.shape) for m, s in (("simclr", 3.0), ("random", 1.0))}
    rows = [
        row(m, "finetune/v1", None, n_labels=50, seed=seed, top1=90.0,
            resampled=resampled_map(each, labels, samples=200),
            record={"device": "cpu", "metrics": {"mAP": 100 * average_precision_score(labels, each) - seed}})
        for m, each in scores.items() for seed in (0, 1)
    ]  # fmt: skip
    group = only(rows)
    (test,) = group.differences
    apart = group.lines[0].cells[test.column].mean - group.lines[1].cells[test.column].mean
    assert test.points == pytest.approx(apart)
    assert 0 < test.low < test.points < test.high
    assert (test.pairs, test.spread.n, test.mcnemar, test.outcome()) == (2, "2", None, "better")
    assert verdict(group).state == "yes"


def test_a_single_value_shows_no_interval() -> None:
    group = only([row("simclr", "knn/v1", correct(800))])
    (cell,) = line(group, "simclr").cells.values()
    assert (cell.half_width(), cell.n) == (None, "1")
    assert any("single run" in note for note in notes(group))


def test_lines_stand_in_order_and_supervised_has_no_few_label_cells() -> None:
    methods = ("supervised", "random", "mae", "pixels", "simclr")
    rows = [row(method, "knn/v1", correct(800)) for method in methods]
    rows += [finetuned(method, correct(810)) for method in ("supervised", "random", "mae")]
    rows += [
        row(method, "fewlabel/v1", correct(700), n_labels=n, draw=0, n_train=n)
        for method in methods
        for n in (600, 100)
    ]
    group = only(rows)
    assert [line.label for line in group.lines] == [
        "pixels",
        "random",
        "mae",
        "simclr",
        "scratch",
        "supervised",
    ]
    assert [column.title for column in group.columns] == [
        "kNN",
        "linear, 100 labels",
        "linear, 600 labels",
        "fine-tuned, 600 labels",
    ]
    assert [column.title for column in line(group, "supervised").cells] == ["kNN"]
    assert [column.title for column in line(group, "scratch").cells] == ["fine-tuned, 600 labels"]


def test_rows_are_paired_by_seed_and_draw() -> None:
    """Seeds differ by far more than methods do; each pair differs in exactly 20 images, in the same sense."""
    rows = []
    for seed, start in enumerate((0, 300, 600)):
        right = 800 + 10 * seed
        rows += [
            finetuned("simclr", correct(right + 20, start), seed=seed),
            finetuned("random", correct(right, start), seed=seed),
        ]
    (test,) = only(rows).differences
    assert (test.line, test.against, test.spread.n) == ("simclr", "scratch", "3")
    assert test.points == pytest.approx(2.0)
    assert test.spread.half_width() == pytest.approx(0.0)
    assert 0 < test.low < 2 < test.high
    assert test.outcome() == "better"


def test_equal_predictions_differ_by_nothing() -> None:
    (test,) = only([finetuned("simclr", correct(820)), finetuned("random", correct(820))]).differences
    assert (test.points, test.low, test.high, test.p, test.outcome()) == (0, 0, 0, 1, "undecided")


def test_draws_that_are_not_shared_are_not_paired() -> None:
    group = only([finetuned("simclr", correct(820), draw=0), finetuned("random", correct(800), draw=1)])
    assert not group.differences
    assert any("Not every paired test of simclr against scratch" in note for note in notes(group))


def test_a_baseline_without_that_seed_stands_with_the_mean_of_its_seeds() -> None:
    """Pixels have one seed, and every seed of a method is compared with it."""
    rows = [row("simclr", "linear/v1", correct(880 + 10 * seed), seed=seed) for seed in range(3)] + [
        row("pixels", "linear/v1", correct(845))
    ]
    (test,) = only(rows).differences
    assert (test.against, test.spread.n) == ("pixels", "3")
    assert test.points == pytest.approx(89.0 - 84.5)


def test_one_run_of_a_network_is_not_the_baseline_of_other_seeds() -> None:
    """It would count as known without error."""
    for base, evaluator in (("random", "linear/v1"), ("random", "finetune/v1")):
        rows = [row("simclr", evaluator, correct(880 + seed), seed=seed) for seed in range(3)]
        (test,) = only([*rows, row(base, evaluator, correct(850), seed=1)]).differences
        assert test.spread.n == "1"
        assert test.points == pytest.approx(3.1)


def test_a_random_network_that_auto_left_frozen_is_no_scratch() -> None:
    for chosen, kind in (("head", "random"), ("all", "scratch")):
        record = {"device": "cpu", "metrics": {}, "spec": {"strategy": "auto"}, "settings": {"strategy": chosen}}
        name = "finetune/v1 strategy=auto"
        group = only(row(m, name, correct(900), n_labels=60, draw=0, record=record) for m in ("simclr", "random"))
        assert {line.kind for line in group.lines} == {"pretrained", kind}


def test_the_interval_over_images_is_the_bootstrap_s() -> None:
    """Against scipy's own paired bootstrap of the mean difference over two seeds."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((2, N)) < 0.83, rng.random((2, N)) < 0.80
    rows = [
        finetuned(method, right[seed], seed=seed)
        for seed in range(2)
        for method, right in (("simclr", ours), ("random", theirs))
    ]
    (test,) = only(rows).differences
    delta = 100 * (ours.mean(0) - theirs.mean(0))
    oracle = scipy_stats.bootstrap(
        (delta,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(1)
    ).confidence_interval
    assert test.low == pytest.approx(oracle.low, abs=0.1)
    assert test.high == pytest.approx(oracle.high, abs=0.1)


def test_versions_data_sets_and_backbones_are_never_mixed() -> None:
    rows = [row("simclr", "knn/v1", correct(800)), row("mae", "knn/v2", correct(810))]
    group = only(rows)
    assert [column.evaluator for column in group.columns] == ["knn/v1", "knn/v2"]
    assert any("versions" in note for note in notes(group))
    groups = compare(
        [
            *rows,
            row("simclr", "knn/v1", correct(700), dataset="digits"),
            row("mae", "knn/v1", correct(700), backbone="vit"),
        ]
    )
    assert [(group.dataset, group.backbone) for group in groups] == [
        ("fashion_mnist", "resnet_small"),
        ("digits", "resnet_small"),
        ("fashion_mnist", "vit"),
    ]


def test_pixels_stand_in_every_group_of_their_data_set_and_alone_where_there_is_none() -> None:
    pixels = [row("pixels", "knn/v1", correct(860), dataset=dataset) for dataset in ("fashion_mnist", "digits")]
    groups = compare([*pixels, *(row("simclr", "knn/v1", correct(870), backbone=backbone) for backbone in ("a", "b"))])
    found = [(group.dataset, group.backbone, [line.label for line in group.lines]) for group in groups]
    assert found == [
        ("fashion_mnist", "a", ["pixels", "simclr"]),
        ("fashion_mnist", "b", ["pixels", "simclr"]),
        ("digits", "", ["pixels"]),
    ]


def test_rows_scored_on_different_images_are_refused() -> None:
    for change in ({"n_test": N - 1}, {"n_train": 54_000}):
        with pytest.raises(UserError, match="not scored on the same data"):
            compare([row("simclr", "knn/v1", None, top1=80.0), row("mae", "knn/v1", None, top1=81.0, **change)])


def test_rows_of_other_labels_are_refused_where_they_say_so() -> None:
    """Corrected training labels change neither the number of images nor what was right."""
    records = [{"device": "cpu", "metrics": {}, "labelled_sha256": digest} for digest in ("a", "b")]
    rows = [finetuned(m, correct(800), record=r) for m, r in zip(("simclr", "random"), records, strict=True)]
    with pytest.raises(UserError, match="other labels"):
        compare(rows)
    assert compare([rows[0], finetuned("random", correct(800))])


def test_rows_of_another_specification_are_refused_and_more_draws_are_not() -> None:
    def told(method: str, **spec: object) -> Row:
        return finetuned(method, correct(800), record={"device": "cpu", "metrics": {}, "spec": {"steps": 300, **spec}})

    compare([told("simclr", n_labels=600, draws=[0]), told("random", n_labels=100, draws=[0, 1])])
    with pytest.raises(UserError, match="not evaluated in the same way"):
        compare([told("simclr"), told("random", steps=3000)])


def test_the_same_row_twice_counts_once_and_a_contradiction_is_refused() -> None:
    bare, full = row("simclr", "knn/v1", None, top1=80.0), row("simclr", "knn/v1", correct(800))
    group = only([bare, full, bare, row("random", "knn/v1", correct(790))])
    assert line(group, "simclr").cells[group.columns[0]].n == "1"
    assert len(group.differences) == 1  # the copy with predictions was kept
    at_hand = row("simclr", "knn/v1", correct(800), folder=Path("runs/simclr"))
    (kept,) = line(only([full, at_hand]), "simclr").every_row
    assert kept.folder == Path("runs/simclr")  # for curves and pictures
    with pytest.raises(UserError, match="two different results") as caught:
        compare([full, row("simclr", "knn/v1", correct(801), where="other:7")])
    assert caught.value.where == "simclr0:1 and other:7"


def test_recipes_and_budgets_of_one_method_are_lines_of_their_own() -> None:
    rows = [row("simclr", "knn/v1", correct(800 + seed), seed=seed) for seed in range(2)]
    rows += [row("simclr", "knn/v1", correct(850), run="long-seed0", images_seen=9000, view_forwards=18_000)]
    group = only(rows)
    assert [line.label for line in group.lines] == ["simclr (simclr_recipe)", "simclr (long)"]
    assert any(note.startswith("Unequal budgets") and "9,000" in note for note in notes(group))
