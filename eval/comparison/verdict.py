"""What a comparison shows, in words: is it worth it, and what to know before believing that."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from eval.comparison.compare import Difference, Group

_BASELINES = ("pixels", "random", "scratch")


@dataclass(frozen=True)
class Verdict:
    state: str  # "yes", "no", "open" (not shown either way), "refused", "unanswered"
    headline: str
    sentences: list[str]  # one a comparison


def verdict(group: Group) -> Verdict:
    """Fine-tuning against scratch answers, over other test images and other runs at 5 %.

    Several methods and label counts are several chances to win by luck: each is tested at 5 % over their number
    (Bonferroni). Weights from elsewhere do not answer: they may have been trained with labels.
    """
    own = {line.label for line in group.lines if line.label_free}
    tests = [test for test in group.differences if test.against == "scratch" and test.line in own]
    done = sorted((test for test in tests if not test.refused), key=lambda test: -test.points)
    level = 1 - 0.05 / max(1, len(done))
    if not own:
        state, said = "unanswered", "Not answered yet: nothing here was pretrained without labels."
    elif not tests:
        state, said = (
            "unanswered",
            "Not answered yet: no fine-tuned encoder can be paired with training from scratch.",
        )
    elif not done:
        state, said = (
            "refused",
            "No answer: the scratch baseline is broken, and beating it would mean nothing.",
        )
    elif best := next((test for test in done if test.outcome(level) == "better"), None):
        by = f"{_points(best)} on {_labels(best)}"
        state, said = "yes", _hedged(best, "Yes", f"fine-tuned {best.line} beats training from scratch by {by}")
    elif all(test.outcome(level) == "worse" for test in done):
        trails = f"even fine-tuned {done[0].line} trails training from scratch by {_points(done[0])}"
        state, said = "no", _hedged(done[0], "No", trails)
    else:
        state, said = "open", "Not shown. No fine-tuned encoder beats training from scratch beyond the noise."
    n_test = group.lines[0].every_row[0].n_test
    return Verdict(state, said, [_sentence(test, n_test, level) for test in tests if not test.refused])


def _hedged(test: Difference, answer: str, said: str) -> str:
    """One run's answer is about that run, however many labels it was fine-tuned on."""
    if test.spread.seeds == 1:
        return f"{answer}, for a single run: {said}. Another seed may answer otherwise."
    return f"{answer}. {said[0].upper()}{said[1:]}."


def _sentence(test: Difference, n_test: int, level: float) -> str:
    result = {
        "better": f"beats scratch by {_points(test)}",
        "worse": f"trails scratch by {_points(test)}",
        "undecided": f"and scratch cannot be told apart: {test.points:+.1f} points",
    }[test.outcome(level)]
    seeds, draws, half_width = test.spread.seeds, test.spread.draws, test.spread.half_width()
    over = f"{seeds} seed{'s' * (seeds > 1)}" + (f" and {draws} label draws" if draws > 1 else "")
    spread = "a single run" if half_width is None else f"± {half_width:.1f} over {over}"
    interval = f"95 %: {test.low:+.1f} to {test.high:+.1f} over test images; {spread}"
    return f"On {_labels(test)}, fine-tuned {test.line} {result} ({interval}).{_needed(test, n_test)}"


def _needed(test: Difference, n_test: int) -> str:
    """How many images it takes to see a lead that these leave open: the interval narrows with their square root."""
    if test.points <= 0 or test.low > 0:
        return ""
    images = n_test * ((test.high - test.low) / 2 / test.points) ** 2
    about = max(n_test, round(images, 1 - math.floor(math.log10(images))))
    return f" A lead of that size shows on about {about:,.0f} test images; here are {n_test:,}."


def _points(test: Difference) -> str:
    points = f"{abs(test.points):.1f}"
    return f"{points} point" if points == "1.0" else f"{points} points"


def _labels(test: Difference) -> str:
    labels = "all labels" if test.column.n_labels is None else f"{test.column.n_labels} labels"
    return ", ".join([labels, *test.column.variant])


def notes(group: Group) -> list[str]:
    """What a reader must know before believing the table; a refusal comes first."""
    return [*_refusals(group), *_budgets(group), *_draws(group), *_gaps(group), *_optimism(group)]


def _refusals(group: Group) -> Iterator[str]:
    for reason in dict.fromkeys(test.refused for test in group.differences if test.refused):
        yield f"REFUSED, {reason}. No comparison with it is shown."


def _budgets(group: Group) -> Iterator[str]:
    """Costs that differ between lines."""
    trained = {line.label: line.identity for line in group.lines if line.identity.images_seen}
    if len({identity.images_seen for identity in trained.values()}) > 1:
        each = ", ".join(f"{label} {identity.images_seen:,}" for label, identity in trained.items())
        yield f"Unequal budgets, images seen: {each}."
    if len({identity.view_forwards / identity.images_seen for identity in trained.values()}) > 1:
        yield "Equal images are not equal compute: methods differ in the views that pass the backbone."
    devices = {row.record["device"] for line in group.lines for row in line.every_row}
    if len(devices) > 1:
        yield f"Rows come from different devices: {', '.join(sorted(devices))}."


def _draws(group: Group) -> Iterator[str]:
    """Cells of one column that are means over other label draws."""
    for column in group.columns:
        rows = {line.label: line.rows[column] for line in group.lines if column in line.rows}
        draws = {label: frozenset(row.draw for row in found) for label, found in rows.items()}
        everywhere = frozenset[int | None]().union(*draws.values())
        if some := ", ".join(label for label, own in draws.items() if own != everywhere):
            yield (
                f"{column.title}: {some} not on all label draws, so their means are not to be held against the "
                "others'; differences are of the draws that both have."
            )


def _optimism(group: Group) -> Iterator[str]:
    """What choosing on the test set would have claimed, where every setting's test score was kept."""
    gaps = [
        (statistics.fmean(found), line.label, column.title)
        for line in group.lines
        for column, rows in line.rows.items()
        if (found := [row.best_on_test - row.top1 for row in rows if row.best_on_test is not None])
    ]
    if gaps:
        largest, label, title = max(gaps)
        mean = statistics.fmean(gap for gap, _, _ in gaps)
        yield (
            f"Settings chosen on the test set would have claimed {mean:.2f} points more on average, "
            f"up to {largest:.2f} ({label}, {title}). None here were."
        )


def _gaps(group: Group) -> Iterator[str]:
    """What is not there."""
    if len(group.columns) > len({column.title for column in group.columns}):
        yield "An evaluator stands here in several versions: their columns are not comparable."
    cells = [cell for line in group.lines if line.kind != "pixels" for cell in line.cells.values()]
    if any(cell.error is None for cell in cells):
        yield "A value without an interval is a single run: it says nothing about the spread over seeds."
    if any(cell.seeds == 1 and cell.draws > 1 for cell in cells):
        yield "An interval over label draws of a single seed (n=1×draws) says nothing about the spread over seeds."
    if names := ", ".join(line.label for line in group.lines if line.kind == "pretrained" and not line.label_free):
        yield f"{names}: trained elsewhere, perhaps with labels or on these test images; no part of the answer above."
    pretrained = [line for line in group.lines if line.kind == "pretrained"]
    if pretrained and not any(line.kind == "scratch" for line in group.lines):
        yield "No scratch baseline: whether pretraining beats plain supervised training cannot be said."
    compared = {(test.line, test.column, test.against) for test in group.differences}
    for base in (line for line in group.lines if line.kind in _BASELINES):
        pairs = ((line.label, column, base.kind) for line in pretrained for column in base.rows if column in line.rows)
        if names := ", ".join(dict.fromkeys(pair[0] for pair in pairs if pair not in compared)):
            reason = "predictions or test labels are missing, no label draw is shared, or images had other sizes"
            yield f"Not every paired test of {names} against {base.kind} could be made: {reason}."
