"""The table: closed-form cells and differences, and what it refuses to compare."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import average_precision_score

from eval import tables
from eval.compare import Group, compare
from eval.record import Row
from eval.stats import resampled_map
from eval.verdict import notes, verdict
from ssl_cls.errors import UserError

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


@pytest.mark.parametrize(
    ("n", "right", "refused"),
    [(600, 796, True), (600, 797, False), (100, 724, True), (100, 725, False), (300, 100, False)],
)
def test_a_broken_baseline_is_refused(n: int, right: int, refused: bool) -> None:
    group = only([finetuned("simclr", correct(999), n), finetuned("random", correct(right), n)])
    (test,) = group.differences
    assert bool(test.refused) == refused
    assert (verdict(group).state == "refused") == refused
    assert any(note.startswith("REFUSED") for note in notes(group)) == refused


def test_the_floor_is_the_small_cnn_s_on_fashion_mnist_only() -> None:
    for change in ({"backbone": "vit"}, {"dataset": "digits"}):
        (test,) = only(
            [finetuned("simclr", correct(500), **change), finetuned("random", correct(400), **change)]
        ).differences
        assert not test.refused


def _answer(*pairs: tuple[int, int]) -> str:
    seeds = enumerate(pairs)
    return verdict(
        only(
            x
            for seed, (a, b) in seeds
            for x in (finetuned("mae", correct(a), seed=seed), finetuned("random", correct(b), seed=seed))
        )
    ).state


def test_the_answer_needs_images_and_seeds_to_agree() -> None:
    assert _answer((850, 800), (852, 801), (853, 800)) == "yes"
    assert _answer((800, 850), (801, 852), (800, 853)) == "no"
    assert _answer((801, 800), (801, 800)) == "open"  # too few images differ
    assert _answer((900, 800), (800, 840), (905, 800)) == "open"  # the mean is far above zero, but one seed is not


def test_an_answer_from_a_single_run_says_so() -> None:
    for seeds, beginning in ((1, "Yes, for a single run: fine-tuned mae"), (2, "Yes. Fine-tuned")):
        pairs = (("mae", 850), ("random", 800))
        group = only(finetuned(method, correct(n), seed=seed) for method, n in pairs for seed in range(seeds))
        assert verdict(group).headline.startswith(beginning)


def test_many_methods_have_not_many_chances_to_win_by_luck() -> None:
    """Images tell one method from scratch at p = 0.03: enough for a single comparison, not for the best of ten."""
    better = correct(800)
    better[800:836], better[:20] = True, False  # 36 against 20
    scratch = finetuned("random", correct(800))
    one = only([scratch, finetuned("mae", better)])
    assert 0.01 < one.differences[0].p < 0.05
    others = [finetuned(f"other{k}", correct(801)) for k in range(9)]
    assert (verdict(one).state, verdict(only([scratch, finetuned("mae", better), *others])).state) == ("yes", "open")


@pytest.mark.parametrize("method", ["timm", "weights"])
def test_weights_from_elsewhere_are_compared_but_answer_nothing(method: str) -> None:
    """They may have been trained with labels, or on the test images."""
    record = {"device": "cpu", "metrics": {}, "input": {"size": 28, "channels": 1}}
    group = only(finetuned(m, correct(n), record=record) for m, n in ((method, 900), ("random", 800)))
    assert [test.outcome() for test in group.differences] == ["better"]
    assert verdict(group).state == "unanswered"
    assert any("trained elsewhere" in note for note in notes(group))


def test_the_answer_is_against_scratch_alone() -> None:
    group = only(
        [
            row("simclr", "linear/v1", correct(950)),
            row("random", "linear/v1", correct(500)),
            row("supervised", "linear/v1", correct(400)),
        ]
    )
    assert verdict(group).state == "unanswered"
    assert [test.against for test in group.differences] == ["random"]
    assert any("No scratch baseline" in note for note in notes(group))


def test_equal_images_are_said_not_to_be_equal_compute() -> None:
    group = only([row("simclr", "knn/v1", correct(800)), row("supervised", "knn/v1", correct(900), view_forwards=5000)])
    assert any("not equal compute" in note for note in notes(group))
    assert not any("Unequal budgets" in note for note in notes(group))


def test_seconds_are_the_mean_over_runs_not_over_rows() -> None:
    rows = [row("mae", evaluator, correct(800), seed=0, seconds=10.0) for evaluator in ("knn/v1", "linear/v1")]
    assert only([*rows, row("mae", "knn/v1", correct(800), seed=1, seconds=40.0)]).lines[0].seconds == 25.0


def test_the_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    rows = [
        finetuned(method, correct(800 + 7 * seed + 3 * draw), seed=seed, draw=draw)
        for method in ("mae", "random")
        for seed in (0, 1, 2)
        for draw in (0, 1)
    ]
    reference, turned = only(rows), only(rows[::-1])
    assert turned.differences == reference.differences
    assert [line.cells for line in turned.lines] == [line.cells for line in reference.lines]


def test_mcnemar_counts_the_runs_that_alone_differ_in_the_direction_of_the_mean() -> None:
    """Of three paired runs two lead by 40 images of 1,000, one trails by 20: by the exact test all differ."""
    base = correct(800)
    ours = [correct(840), correct(840), correct(780)]
    rows = [finetuned("simclr", right, seed=seed) for seed, right in enumerate(ours)]
    rows += [finetuned("random", base, seed=seed) for seed in range(3)]
    (test,) = only(rows).differences
    assert scipy_stats.binomtest(0, 20).pvalue < 0.05
    assert (test.points, test.pairs, test.mcnemar) == (pytest.approx(2.0), 3, 2)


def test_mcnemar_needs_run_against_run() -> None:
    """A seed without a partner of its own is paired with the mean of the others, which is not an answer."""
    rows = [finetuned("simclr", correct(840), seed=7)]
    rows += [finetuned("random", correct(800 + seed), seed=seed) for seed in range(2)]
    (test,) = only(rows).differences
    assert test.mcnemar is None


def test_what_choosing_on_the_test_set_would_have_claimed_is_said() -> None:
    rows = [row("simclr", "knn/v1", correct(800), best_on_test=81.5), row("mae", "knn/v1", correct(700))]
    (said,) = [note for note in notes(only(rows)) if "test set" in note]
    assert said == (
        "Settings chosen on the test set would have claimed 1.50 points more on average, up to 1.50 (simclr, kNN). "
        "None here were."
    )
    assert not [note for note in notes(only(rows[1:])) if "test set" in note]


@pytest.mark.parametrize(("method", "size", "paired"), [
    ("timm", 224, False), ("timm", 28, True), ("timm", None, False), ("simclr", 224, False), ("simclr", None, True),
])  # fmt: skip
def test_the_same_backbone_at_another_input_size_is_no_baseline(method: str, size: int | None, paired: bool) -> None:
    def fed(name: str, side: int | None) -> Row:
        known = {"input": {"size": side, "channels": 3}} if side else {}
        record = {"device": "cpu", "metrics": {}, **known}
        return row(name, "finetune/v1", correct(820), n_labels=50, draw=0, record=record)

    group = only([fed(method, size), fed("random", 28)])
    assert bool(group.differences) == paired
    assert any("images had other sizes" in note for note in notes(group)) != paired
