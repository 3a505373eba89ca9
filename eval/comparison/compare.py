"""The comparison: result rows in; lines, columns and paired differences out.

Rows are grouped by data set and backbone, and an evaluator's versions never share a column. "Better than
supervised" always means against `scratch`: the same backbone trained from random weights on exactly the n
labels of the column.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eval.comparison.lines import Column, Line, check_alike, make_lines, place
from eval.comparison.record import Row
from eval.comparison.stats import Interval, crossed_interval, mcnemar, of_resamples, paired_bootstrap

_NO_RUNS = Interval(0.0, 0, 0, None, 0)
# What the small CNN was measured to reach from scratch on so many Fashion-MNIST labels.
_FLOORS = {600: 79.7, 100: 72.5}


@dataclass(frozen=True)
class Difference:
    """A line's top-1 or mAP minus a baseline's in one column, in points. `refused` says why there is none."""

    line: str
    against: str
    column: Column
    points: float = 0.0
    low: float = 0.0  # 95 % over test images: paired bootstrap
    high: float = 0.0
    p: float = 1.0
    spread: Interval = _NO_RUNS  # over seeds and draws
    pairs: int = 0
    mcnemar: int | None = 0  # of the pairs, how many alone differ in this direction at 5 %; None: not run against run
    refused: str = ""

    def outcome(self, level: float = 0.95) -> str:
        """ "better" or "worse" beyond the noise of test images and of runs, else "undecided"; or "refused"."""
        if self.refused:
            return "refused"
        if self.p > 1 - level or abs(self.points) <= (self.spread.half_width(level) or 0.0):
            return "undecided"
        return "better" if self.points > 0 else "worse"


@dataclass(frozen=True)
class Group:
    """One table: all that may be compared with each other."""

    dataset: str
    backbone: str  # "" where only pixels were judged
    columns: list[Column]
    lines: list[Line]
    differences: list[Difference]

    @property
    def tuned(self) -> Column | None:
        """Fine-tuning on the most labels, in its plain form where that was evaluated."""
        columns = [column for column in self.columns if column.family == "finetune"]
        plain = [column for column in columns if not column.variant]
        return next(reversed(plain or columns), None)

    @property
    def measure(self) -> str:
        return self.lines[0].every_row[0].measure


def compare(rows: Sequence[Row]) -> list[Group]:
    """A group for each data set and backbone, in order of appearance; pixels stand in all of them.

    Raises:
        UserError: two different results for the same evaluation, or a column whose rows are not alike.
    """
    keys = dict.fromkeys((row.dataset, row.backbone) for row in rows if row.method != "pixels")
    with_network = {dataset for dataset, _ in keys}
    keys |= dict.fromkeys((row.dataset, "") for row in rows if row.dataset not in with_network)
    return [_group(*key, [row for row in rows if _belongs(row, *key)]) for key in keys]


def _belongs(row: Row, dataset: str, backbone: str) -> bool:
    return row.dataset == dataset and (row.method == "pixels" or row.backbone == backbone)


def _group(dataset: str, backbone: str, rows: list[Row]) -> Group:
    lines = make_lines(rows)
    columns = sorted({column for line in lines for column in line.rows}, key=lambda column: column.place)
    for column in columns:
        check_alike(lines, column)
    small_cnn = backbone.split(" ")[0] == "resnet_small" and dataset.split("/")[0] == "fashion_mnist"
    floors = _FLOORS if small_cnn else {}
    return Group(dataset, backbone, columns, lines, list(_differences(lines, columns, floors)))


def _differences(lines: list[Line], columns: list[Column], floors: dict[int, float]) -> Iterator[Difference]:
    """Fine-tuned against scratch; frozen features against pixels and the random encoder."""
    for column in columns:
        # a random encoder has fine-tuned columns where most of it stayed as it was: then it is no scratch
        kinds = ("scratch", "random") if column.family == "finetune" else ("pixels", "random")
        bases = [line for line in lines if line.kind in kinds and column in line.rows]
        for line in (line for line in lines if line.kind == "pretrained" and column in line.rows):
            for base in bases:
                if base.kind != "pixels" and not _fed_alike(line, base, column):
                    continue
                if refused := _broken(base, column, floors):
                    yield Difference(line.label, base.kind, column, refused=refused)
                elif difference := _paired(line, base, column):
                    yield difference


def _fed_alike(line: Line, base: Line, column: Column) -> bool:
    """Whether the same backbone got images of the same size and channels, as far as rows say so; of weights from
    elsewhere they have to, for timm's sizes are not those of a random encoder here."""
    ours, theirs = ([row.record.get("input") for row in one.rows[column]] for one in (line, base))
    unknown, keys = line.label_free, ("size", "channels")
    return all(
        [a[key] for key in keys] == [b[key] for key in keys] if a and b else unknown for a in ours for b in theirs
    )


def _broken(base: Line, column: Column, floors: dict[int, float]) -> str:
    """Why nothing may be compared with this baseline; "" where it is sound."""
    floor = floors.get(column.n_labels or 0, 0.0) if base.kind == "scratch" else 0.0
    reached = base.cells[column].mean
    if reached >= floor:
        return ""
    return f"broken baseline: scratch reaches {reached:.1f} % on {column.n_labels} labels, a sound one {floor} %"


def _paired(line: Line, base: Line, column: Column) -> Difference | None:
    """Each row against the baseline's of its draw and seed.

    None where per-image predictions are missing, or no draw and seed is shared.
    """
    if line.rows[column][0].measure == "mAP":
        return _paired_map(line, base, column)
    ours, theirs, alone, each = [], [], [], {}
    for row in line.rows[column]:
        partners = _partners(row, base, column)
        correct = [other.correct for other in partners if other.correct is not None]
        if row.correct is not None and partners and len(correct) == len(partners):
            ours.append(row.correct.astype(np.float64))
            theirs.append(np.mean(correct, axis=0))
            each[place(row)] = 100 * float(ours[-1].mean() - theirs[-1].mean())
            alone.append(mcnemar(row.correct, correct[0]) if len(correct) == 1 else None)
    if not ours:
        return None
    points, low, high, p = paired_bootstrap(np.mean(ours, axis=0), np.mean(theirs, axis=0))
    rejecting = sum(q is not None and q < 0.05 and x * points > 0 for q, x in zip(alone, each.values(), strict=True))
    return Difference(
        *(line.label, base.kind, column, points, low, high, p, crossed_interval(each), len(each)),
        mcnemar=None if None in alone else rejecting,
    )


def _partners(row: Row, base: Line, column: Column) -> list[Row]:
    """Pixels have no seed. A network has: one run of it, set against several, would count as known without error."""
    same_draw = [other for other in base.rows[column] if other.draw == row.draw]
    return same_draw if base.kind == "pixels" else [other for other in same_draw if other.seed == row.seed]


def _paired_map(line: Line, base: Line, column: Column) -> Difference | None:
    """mAP is no mean over images: it is computed again of each resample of them, the same of both lines."""
    apart, each = [], {}
    for row in line.rows[column]:
        partners = _partners(row, base, column)
        theirs = [other.resampled for other in partners if other.resampled is not None]
        if row.resampled is not None and partners and len(theirs) == len(partners):
            apart.append(row.resampled - np.mean(theirs, axis=0))
            each[place(row)] = row.score - float(np.mean([other.score for other in partners]))
    if not apart:
        return None
    points, low, high, p = of_resamples(float(np.mean(list(each.values()))), np.mean(apart, axis=0))
    spread = crossed_interval(each)
    return Difference(line.label, base.kind, column, points, low, high, p, spread, len(each), mcnemar=None)
