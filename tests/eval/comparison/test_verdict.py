"""What a comparison answers, and what it says of itself."""

import re
from pathlib import Path

import pytest
from scipy import stats as scipy_stats
from synthetic_rows import correct, finetuned, only, row

from eval.comparison.record import Row
from eval.comparison.verdict import notes, verdict


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


def test_a_lead_left_open_says_how_many_test_images_would_show_it() -> None:
    """Half as wide an interval takes four times the images."""
    better = correct(800)
    better[800:840], better[:30] = True, False  # 40 against 30: 1.0 points
    group = only([finetuned("mae", better), finetuned("random", correct(800))])
    (difference,) = group.differences
    (sentence,) = verdict(group).sentences
    needed = 1000 * ((difference.high - difference.low) / 2) ** 2
    said = int(re.search(r"on about ([\d,]+) test images; here are 1,000", sentence).group(1).replace(",", ""))  # type: ignore[union-attr]
    assert said == pytest.approx(needed, rel=0.05)
    clear = only([finetuned("mae", correct(900)), finetuned("random", correct(800))])
    assert "test images; here" not in verdict(clear).sentences[0]


def test_an_answer_from_a_single_run_says_so() -> None:
    for seeds, beginning in ((1, "Yes, for a single run: fine-tuned mae"), (2, "Yes. Fine-tuned")):
        pairs = (("mae", 850), ("random", 800))
        group = only(finetuned(method, correct(n), seed=seed) for method, n in pairs for seed in range(seeds))
        assert verdict(group).headline.startswith(beginning)


def test_label_draws_of_one_seed_are_still_a_single_run() -> None:
    pairs = (("mae", 850), ("random", 800))
    group = only(finetuned(method, correct(n + draw), draw=draw) for method, n in pairs for draw in range(5))
    assert group.differences[0].spread.n == "1×5"
    assert verdict(group).headline.startswith("Yes, for a single run: fine-tuned mae")


def test_many_methods_have_not_many_chances_to_win_by_luck() -> None:
    """Images tell one method from scratch at p = 0.03: enough for a single comparison, not for the best of ten."""
    better = correct(800)
    better[800:836], better[:20] = True, False  # 36 against 20
    scratch = finetuned("random", correct(800))
    one = only([scratch, finetuned("mae", better)])
    assert 0.01 < one.differences[0].p < 0.05
    others = [finetuned(f"other{k}", correct(801)) for k in range(9)]
    many = verdict(only([scratch, finetuned("mae", better), *others]))
    assert (verdict(one).state, many.state) == ("yes", "open")
    assert "beats scratch" in verdict(one).sentences[0]
    assert not any("beats scratch" in sentence for sentence in many.sentences)  # nor what stands below it


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
    """Pixels that were judged twice stand with their mean, which is not an answer."""
    rows = [row("simclr", "linear/v1", correct(840), seed=7)]
    rows += [row("pixels", "linear/v1", correct(800 + seed), seed=seed) for seed in range(2)]
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


def test_cells_of_unequal_label_draws_are_named_and_differences_are_of_shared_ones() -> None:
    scores = {("simclr", 0): 800, ("simclr", 1): 900, ("byol", 0): 790, ("random", 0): 780, ("random", 1): 600}
    rows = [finetuned(method, correct(right), 300, draw) for (method, draw), right in scores.items()]
    group = only(rows)
    assert {test.line: (round(test.points, 1), test.pairs) for test in group.differences} == {
        "simclr": (16.0, 2), "byol": (1.0, 1)
    }  # fmt: skip
    (note,) = [note for note in notes(group) if "label draws" in note and "means" in note]
    assert note.startswith("fine-tuned, 300 labels: byol not on all")
    alike = only(row for row in rows if row.method != "byol")
    assert not [note for note in notes(alike) if "not on all label draws" in note]
    apart = only([finetuned("simclr", correct(800), 300, 0), finetuned("random", correct(700), 300, 1)])
    assert any(note.startswith("fine-tuned, 300 labels: simclr, scratch not on all") for note in notes(apart))
