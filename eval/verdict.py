"""What a comparison shows, in words: the answer to "is it worth it?", and what to know before believing it."""

from dataclasses import dataclass

from eval.compare import Difference, Group


@dataclass(frozen=True)
class Verdict:
    state: str  # "yes", "no", "open" (not shown either way), "refused", "unanswered"
    headline: str
    sentences: list[str]  # a comparison each


def verdict(group: Group) -> Verdict:
    """Only fine-tuning against scratch answers; "yes" and "no" need both intervals of a difference to leave zero out."""
    pretrained = [line for line in group.lines if line.kind == "pretrained"]
    tests = [test for test in group.differences if test.against == "scratch"]
    done = sorted((test for test in tests if not test.refused), key=lambda test: -test.points)
    sentences = [_sentence(test) for test in tests if not test.refused]
    if not pretrained:
        return Verdict("unanswered", "Not answered yet: nothing here was pretrained without labels.", sentences)
    if not tests:
        return Verdict("unanswered", "Not answered yet: no fine-tuned encoder can be paired with training from scratch.", sentences)
    if not done:
        return Verdict("refused", "No answer: the scratch baseline is broken, and beating it would mean nothing.", sentences)
    if best := next((test for test in done if test.outcome == "better"), None):
        return Verdict("yes", f"Yes. Fine-tuned {best.line} beats training from scratch by {_points(best)} on {_labels(best)}.", sentences)
    if all(test.outcome == "worse" for test in done):
        return Verdict("no", f"No. Training from scratch is better: even fine-tuned {done[0].line} trails it by {_points(done[0])}.", sentences)
    return Verdict("open", "Not shown. No fine-tuned encoder beats training from scratch beyond the noise.", sentences)


def _points(test: Difference) -> str:
    return f"{abs(test.points):.1f} point{'' if f'{abs(test.points):.1f}' == '1.0' else 's'}"


def _labels(test: Difference) -> str:
    return "all labels" if test.column.n_labels is None else f"{test.column.n_labels} labels"


def _sentence(test: Difference) -> str:
    result = {"better": f"beats scratch by {_points(test)}", "worse": f"trails scratch by {_points(test)}"}.get(
        test.outcome, f"and scratch cannot be told apart: {test.points:+.1f} points"
    )
    spread = "a single run" if test.half is None else f"± {test.half:.1f} over {test.n} seeds and draws"
    return f"On {_labels(test)}, fine-tuned {test.line} {result} (95 %: {test.low:+.1f} to {test.high:+.1f} over test images; {spread})."


def notes(group: Group) -> list[str]:
    """What a reader must know before believing the table; a refusal comes first."""
    lines, columns = group.lines, group.columns
    pretrained = [line for line in lines if line.kind == "pretrained"]
    trained = [line for line in lines if line.kind in ("pretrained", "supervised") and line.images_seen]
    found = [f"REFUSED, {reason}. No comparison with it is shown." for reason in dict.fromkeys(x.refused for x in group.differences) if reason]
    if len({line.images_seen for line in trained}) > 1:
        found.append("Unequal budgets, images seen: " + ", ".join(f"{line.label} {line.images_seen:,}" for line in trained) + ".")
    if len({line.view_forwards / line.images_seen for line in trained}) > 1:
        found.append("Equal images are not equal compute: the methods pass different numbers of views of an image through the backbone.")
    if len(columns) > len({(column.family, column.n_labels) for column in columns}):
        found.append("An evaluator stands here in several versions. Each has its own column; they are not comparable.")
    if any(cell.n == 1 for line in lines if line.kind != "pixels" for cell in line.cells.values()):
        found.append("A value without an interval is a single run: it says nothing about the spread over seeds.")
    if pretrained and not any(line.kind == "scratch" for line in lines):
        found.append("No scratch baseline: whether pretraining beats plain supervised training cannot be said.")
    compared = {(test.line, test.column, test.against) for test in group.differences}
    baselines = {"pixels": "frozen", "random": "frozen", "scratch": "fine-tuned"}
    for base in (line for line in lines if line.kind in baselines):
        if missing := [line.label for line in pretrained for column in base.rows if column in line.rows and (line.label, column, base.kind) not in compared]:
            names = ", ".join(dict.fromkeys(missing))
            found.append(f"No paired test of {names} against {base.kind}: predictions or test labels are missing, or no label draw is shared.")
    if len(devices := {row.record["device"] for line in lines for row in line.every_row}) > 1:
        found.append(f"Rows come from different devices: {', '.join(sorted(devices))}.")
    return found
