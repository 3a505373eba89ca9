"""Label efficiency: accuracy over the number of labels, and where training from scratch catches up."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from eval.comparison.compare import Group
from eval.comparison.lines import Line
from eval.comparison.stats import Interval

_PANELS = {
    "a linear head on frozen features": ("fewlabel", "linear"),
    "fine-tuned": ("finetune",),
}
_HOW = {"a linear head on frozen features": "frozen under a linear head", "fine-tuned": "fine-tuned"}
_ABOUT = 2  # significant digits of an interpolated number of labels


@dataclass(frozen=True)
class Curve:
    """One line of the table: its interval at each number of labels, ascending."""

    label: str
    kind: str
    points: dict[int, Interval]

    def at(self, labels: float) -> float | None:
        """Mean top-1, linear in log(labels) between measured points; None outside them."""
        for (n, low), (m, high) in self._steps():
            if n <= labels <= m:
                return low + (high - low) * math.log(labels / n) / math.log(m / n)
        return None

    def labels_for(self, top1: float) -> float | None:
        """The fewest labels at which the mean reaches `top1`; None where that lies outside what was measured."""
        for (n, low), (m, high) in self._steps():
            if low <= top1 <= high and low < high:
                return n * math.exp(math.log(m / n) * (top1 - low) / (high - low))
        return None

    def _steps(self) -> Iterator[tuple[tuple[int, float], tuple[int, float]]]:
        means = [(n, cell.mean) for n, cell in self.points.items()]
        yield from pairwise(means)


@dataclass(frozen=True)
class Crossing:
    """Where the mean of scratch reaches a line's: labels, top-1 in percent."""

    line: str
    labels: float
    top1: float


@dataclass(frozen=True)
class Panel:
    title: str
    measure: str
    curves: list[Curve]
    crossings: list[Crossing]
    sentences: list[str]


def panels(group: Group) -> list[Panel]:
    """A panel for each way of using labels that was tried at two numbers of them or more; scratch is in all."""
    scratch = next((_curve(line, ("finetune",)) for line in group.lines if line.kind == "scratch"), None)
    found = []
    for title, families in _PANELS.items():
        lines = [line for line in group.lines if line.kind not in ("scratch", "supervised")]
        curves = [curve for line in lines if (curve := _curve(line, families)).points]
        if max((len(curve.points) for curve in curves), default=0) < 2:
            continue
        pretrained = [curve for curve in curves if curve.kind == "pretrained"]
        crossings = [x for curve in pretrained if scratch and (x := crossing(curve, scratch))]
        said = [text for curve in pretrained if scratch for text in _sentences(curve, scratch, _HOW[title])]
        found.append(Panel(title, group.measure, [*curves, *([scratch] if scratch else [])], crossings, said))
    return found


def _curve(line: Line, families: Sequence[str]) -> Curve:
    """Of several versions of an evaluator the last, and no variants; all labels count as the images trained on."""
    plain = (column for column in line.rows if column.family in families and not column.variant)
    columns = sorted(plain, key=lambda x: x.place)
    points = {column.n_labels or line.rows[column][0].n_train: line.cells[column] for column in columns}
    return Curve(line.label, line.kind, dict(sorted(points.items())))


def crossing(curve: Curve, scratch: Curve) -> Crossing | None:
    """The first place where scratch, behind at fewer labels, is level; linear in log(labels) between points."""
    leads = _leads(curve, scratch)
    for (n, ahead), (m, behind) in pairwise(leads):
        if ahead > 0 >= behind:
            labels = n * math.exp(math.log(m / n) * ahead / (ahead - behind))
            return Crossing(curve.label, labels, scratch.at(labels) or 0.0)
    return None


def _leads(curve: Curve, scratch: Curve) -> list[tuple[int, float]]:
    """Points by which the means differ, at the numbers of labels that both were measured at."""
    shared = [n for n in curve.points if n in scratch.points]
    return [(n, curve.points[n].mean - scratch.points[n].mean) for n in shared]


def _sentences(curve: Curve, scratch: Curve, how: str) -> Iterator[str]:
    leads, name = _leads(curve, scratch), f"{curve.label}, {how},"
    if len(leads) < 2:
        return
    between = f"at every number of labels measured, {leads[0][0]:,} to {leads[-1][0]:,}"
    if found := crossing(curve, scratch):
        yield f"Scratch catches up with {name} at about {_about(found.labels)} labels."
    elif all(lead > 0 for _, lead in leads):
        yield f"By the means, {name} leads scratch {between}."
    elif all(lead <= 0 for _, lead in leads):
        yield f"By the means, {name} does not lead scratch {between}."
    for n, lead in leads:
        if lead > 0 and (needed := scratch.labels_for(curve.points[n].mean)):
            yield f"What {name} does with {n:,} labels takes scratch about {_about(needed)}."
            return


def _about(labels: float) -> str:
    return f"{round(labels, _ABOUT - 1 - math.floor(math.log10(labels))):,.0f}"
