"""The comparison: result rows in; lines, columns and paired differences out.

Rows are grouped by data set and backbone, and an evaluator's versions never share a column. "Better than supervised"
always means against `scratch`: the same backbone trained from random weights on exactly the n labels of the column.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from eval.rows import Row
from eval.stats import paired_bootstrap, student_t_interval
from ssl_cls.errors import UserError

_ORDER = ("pixels", "random", "pretrained", "scratch", "supervised")  # kinds of lines, from top to bottom
_FAMILIES = {"knn": "kNN", "linear": "linear", "fewlabel": "linear", "finetune": "fine-tuned"}
_FLOORS = {600: 79.7, 100: 72.5}  # measured: what the small CNN reaches from scratch on so many Fashion-MNIST labels


@dataclass(frozen=True, order=True)
class Column:
    """One evaluator, in one version, at one number of labels (None: all)."""

    rank: int
    evaluator: str
    n_labels: int | None

    @property
    def family(self) -> str:
        return self.evaluator.split("/")[0]

    @property
    def title(self) -> str:
        name = _FAMILIES.get(self.family, self.family)
        return name if self.n_labels is None else f"{name}, {self.n_labels} labels"


@dataclass(frozen=True)
class Cell:
    """Top-1 in percent over seeds and draws, with the half-width of its 95 % Student t interval (None: one value)."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Line:
    """A line of the table: one method of one recipe, all its seeds."""

    kind: str
    method: str
    label: str
    rows: dict[Column, list[Row]] = field(repr=False)

    @cached_property
    def cells(self) -> dict[Column, Cell]:
        return {column: Cell(*student_t_interval([row.top1 for row in rows])) for column, rows in self.rows.items()}

    @property
    def every_row(self) -> list[Row]:
        return [row for rows in self.rows.values() for row in rows]

    @property
    def images_seen(self) -> int:
        return self.every_row[0].images_seen

    @property
    def view_forwards(self) -> int:
        return self.every_row[0].view_forwards

    @property
    def seconds(self) -> float | None:
        """Of pretraining, mean over runs."""
        runs = {row.run: row.seconds for row in self.every_row if row.seconds is not None}
        return sum(runs.values()) / len(runs) if runs else None


@dataclass(frozen=True)
class Difference:
    """A line's top-1 minus a baseline's in one column, in points. `refused` says why there is none."""

    line: str
    against: str
    column: Column
    points: float = 0.0
    low: float = 0.0  # 95 % over test images: paired bootstrap
    high: float = 0.0
    p: float = 1.0
    half: float | None = None  # 95 % over seeds and draws: Student t
    n: int = 0
    refused: str = ""

    @property
    def outcome(self) -> str:
        """"better" or "worse" where both intervals leave zero out, else "undecided"."""
        half = self.half or 0.0
        if self.refused:
            return "refused"
        if min(self.low, self.points - half) > 0:
            return "better"
        return "worse" if max(self.high, self.points + half) < 0 else "undecided"


@dataclass(frozen=True)
class Group:
    """One table: all that may be compared with each other."""

    dataset: str
    backbone: str  # "" where only pixels were judged
    columns: list[Column]
    lines: list[Line]
    differences: list[Difference]


def compare(rows: Sequence[Row]) -> list[Group]:
    """A group for each data set and backbone, in the order of their first rows; pixels stand in every group of their data set.

    Raises:
        UserError: two different results for the same evaluation, or rows of one column that were not scored on the same data.
    """
    keys = dict.fromkeys((row.dataset, row.backbone) for row in rows if row.method != "pixels")
    keys |= dict.fromkeys((row.dataset, "") for row in rows if row.dataset not in {dataset for dataset, _ in keys})
    return [
        _group(dataset, backbone, [row for row in rows if row.dataset == dataset and (row.backbone == backbone or row.method == "pixels")])
        for dataset, backbone in keys
    ]


def _group(dataset: str, backbone: str, rows: list[Row]) -> Group:
    lines = _lines(rows)
    columns = sorted({column for line in lines for column in line.rows})
    _same_data(lines, columns)
    return Group(dataset, backbone, columns, lines, list(_differences(lines, columns, _broken_baseline(dataset, backbone, lines))))


def _kind(row: Row) -> str:
    if row.method == "random":
        return "scratch" if row.evaluator.startswith("finetune/") else "random"
    return row.method if row.method in ("pixels", "supervised") else "pretrained"


def _lines(rows: Iterable[Row]) -> list[Line]:
    """Seeds of one recipe and budget share a line; other recipes of the method get their own."""
    members: dict[tuple[str, str, str, int, int], dict[Column, dict[tuple[int, int | None], Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        kind, family = _kind(row), row.evaluator.split("/")[0]
        if kind == "supervised" and row.n_labels is not None:
            continue  # its features have seen all labels: a reference without few-label cells
        recipe = "" if kind in ("pixels", "random", "scratch") else row.run.removesuffix(f"-seed{row.seed}")
        known = list(_FAMILIES)
        column = Column(known.index(family) if family in known else len(known), row.evaluator, row.n_labels)
        cell = members[kind, row.method, recipe, row.images_seen, row.view_forwards][column]
        twin = cell.setdefault((row.seed, row.draw), row)
        if (twin.top1, twin.encoder_sha256) != (row.top1, row.encoder_sha256):
            raise UserError(
                f"two different results of {row.run} (seed {row.seed}) for {row.evaluator}: {twin.top1:.2f} and {row.top1:.2f}",
                f"{twin.where} and {row.where}",
                "compare one of them at a time",
            )
        if twin.correct is None:
            cell[row.seed, row.draw] = row
    methods = [(kind, method) for kind, method, *_ in members]
    lines = []
    for (kind, method, recipe, _images, _forwards), cells in members.items():
        name = kind if kind == "scratch" else method
        alone = methods.count((kind, method)) == 1 and method not in ("timm", "weights")
        by_column = {column: [cell[key] for key in sorted(cell, key=repr)] for column, cell in cells.items()}
        lines.append(Line(kind, method, name if alone else f"{name} ({recipe})", by_column))
    twice = {line.label for line in lines if [other.label for other in lines].count(line.label) > 1}
    lines = [Line(x.kind, x.method, f"{x.label}, {x.images_seen:,} images, {x.view_forwards:,} views" if x.label in twice else x.label, x.rows) for x in lines]
    return sorted(lines, key=lambda line: _ORDER.index(line.kind))


def _same_data(lines: list[Line], columns: list[Column]) -> None:
    for column in columns:
        rows = [row for line in lines for row in line.rows.get(column, [])]
        for row in rows:
            if (row.n_train, row.n_test) != (rows[0].n_train, rows[0].n_test):
                raise UserError(
                    f"{column.title} was not scored on the same data: {rows[0].n_train} training and {rows[0].n_test} test images "
                    f"against {row.n_train} and {row.n_test}",
                    f"{rows[0].where} and {row.where}",
                    "compare runs that were evaluated on the same data",
                )


def _broken_baseline(dataset: str, backbone: str, lines: list[Line]) -> dict[int, str]:
    """Why nothing may be compared with scratch, by number of labels."""
    if backbone.split(" ")[0] != "resnet_small" or dataset.split("/")[0] != "fashion_mnist":
        return {}
    return {
        column.n_labels: f"broken baseline: scratch reaches {cell.mean:.1f} % on {column.n_labels} labels, a sound one at least {floor}"
        for line in lines
        if line.kind == "scratch"
        for column, cell in line.cells.items()
        if column.n_labels is not None and (floor := _FLOORS.get(column.n_labels)) and cell.mean < floor
    }


def _differences(lines: list[Line], columns: list[Column], broken: dict[int, str]) -> Iterable[Difference]:
    """Fine-tuned against scratch; frozen features against pixels and the random encoder."""
    for column in columns:
        baselines = ("scratch",) if column.family == "finetune" else ("pixels", "random")
        for line in (line for line in lines if line.kind == "pretrained" and column in line.rows):
            for base in (base for base in lines if base.kind in baselines and column in base.rows):
                if base.kind == "scratch" and column.n_labels in broken:
                    yield Difference(line.label, base.kind, column, refused=broken[column.n_labels])
                elif difference := _paired(line, base, column):
                    yield difference


def _paired(line: Line, base: Line, column: Column) -> Difference | None:
    """Each row against the baseline's of the same draw and seed; where that seed is missing, against the mean of its seeds.

    None where per-image predictions are missing or no draw is shared.
    """
    ours, theirs = [], []
    for row in line.rows[column]:
        same_draw = [other for other in base.rows[column] if other.draw == row.draw]
        partners = [other for other in same_draw if other.seed == row.seed] or same_draw
        correct = [other.correct for other in partners if other.correct is not None]
        if row.correct is not None and partners and len(correct) == len(partners):
            ours.append(row.correct.astype(np.float64))
            theirs.append(np.mean(correct, axis=0))
    if not ours:
        return None
    points, low, high, p = paired_bootstrap(np.mean(ours, axis=0), np.mean(theirs, axis=0), seed=0)
    _, half, n = student_t_interval([100 * float(a.mean() - b.mean()) for a, b in zip(ours, theirs, strict=True)])
    return Difference(line.label, base.kind, column, points, low, high, p, half, n)
