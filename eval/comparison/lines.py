"""Rows into the lines and columns of a table: what may share a cell, and what must not."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from eval.comparison.record import Row
from eval.comparison.stats import Interval, crossed_interval
from ssl_cls.errors import UserError

_KINDS = ("pixels", "random", "pretrained", "scratch", "supervised")  # from top to bottom
_ELSEWHERE = ("timm", "weights")
_FAMILIES = {
    "knn": "kNN",
    "linear": "linear",
    "fewlabel": "linear",
    "finetune": "fine-tuned",
}  # left to right


@dataclass(frozen=True)
class Column:
    """One evaluator, in one version, at one number of labels (None: all)."""

    evaluator: str
    n_labels: int | None

    @property
    def family(self) -> str:
        return self.evaluator.split("/")[0]

    @property
    def variant(self) -> list[str]:
        """ "strategy=top": what is not at its default."""
        return self.evaluator.split(" ")[1:]

    @property
    def title(self) -> str:
        name = ", ".join([_FAMILIES.get(self.family, self.family), *self.variant])
        return name if self.n_labels is None else f"{name}, {self.n_labels} labels"

    @property
    def place(self) -> tuple[int, str, float]:
        """What columns are sorted by."""
        known = list(_FAMILIES)
        rank = known.index(self.family) if self.family in known else len(known)
        return rank, self.evaluator, float("inf") if self.n_labels is None else self.n_labels


class Identity(NamedTuple):
    """Runs that differ in nothing but their seed share a line."""

    kind: str
    method: str
    recipe: str
    images_seen: int
    view_forwards: int


@dataclass(frozen=True)
class Line:
    """A line of the table: one method by one recipe, all its seeds."""

    identity: Identity
    label: str
    rows: dict[Column, list[Row]] = field(repr=False)

    @property
    def kind(self) -> str:
        return self.identity.kind

    @property
    def label_free(self) -> bool:
        """Pretrained here, so without labels. Weights from elsewhere may have seen labels, or the test images."""
        return self.kind == "pretrained" and self.identity.method not in _ELSEWHERE

    @cached_property
    def cells(self) -> dict[Column, Interval]:
        """Top-1, or mAP, in percent over seeds and draws."""
        return {column: crossed_interval({place(row): row.score for row in rows}) for column, rows in self.rows.items()}

    @property
    def every_row(self) -> list[Row]:
        return [row for rows in self.rows.values() for row in rows]

    @property
    def seconds(self) -> float | None:
        """Of pretraining, mean over runs."""
        runs = {row.run: row.seconds for row in self.every_row if row.seconds is not None}
        return sum(runs.values()) / len(runs) if runs else None


def place(row: Row) -> tuple[int, int]:
    """Seed and label draw: where the row stands in its cell."""
    return row.seed, -1 if row.draw is None else row.draw


def make_lines(rows: Iterable[Row]) -> list[Line]:
    """Lines from top to bottom.

    Raises:
        UserError: two different results for the same evaluation.
    """
    found: dict[Identity, dict[Column, dict[tuple[int, int], Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        identity = _identity(row)
        if identity.kind == "supervised" and row.n_labels is not None:
            continue  # it was trained on all labels: a reference without few-label cells
        cell = found[identity][Column(row.evaluator, row.n_labels)]
        cell[place(row)] = _the_same(cell.get(place(row), row), row)
    lines = []
    for identity, cells in found.items():
        by_column = {column: [cell[key] for key in sorted(cell)] for column, cell in cells.items()}
        lines.append(Line(identity, _label(identity, found), by_column))
    return sorted(lines, key=lambda line: _KINDS.index(line.kind))


def check_alike(lines: Iterable[Line], column: Column) -> None:
    """Refuse a column whose rows differ in the images they were trained or scored on, or in how."""
    rows = [row for line in lines for row in line.rows.get(column, [])]
    told = [row for row in rows if "labelled_sha256" in row.record]  # rows made before it was kept do not say
    for row in told:
        if row.record["labelled_sha256"] != told[0].record["labelled_sha256"]:
            raise UserError(
                f"{column.title} was judged on other images, or other labels of them",
                f"{told[0].where} and {row.where}",
                "evaluate all of them on the data as they are now",
            )
    for row in rows:
        if (row.n_train, row.n_test) != (rows[0].n_train, rows[0].n_test):
            raise UserError(
                f"{column.title} was not scored on the same data: {rows[0].n_train} training and "
                f"{rows[0].n_test} test images against {row.n_train} and {row.n_test}",
                f"{rows[0].where} and {row.where}",
                "compare runs that were evaluated on the same data",
            )
        if _specification(row) != _specification(rows[0]):
            raise UserError(
                f"{column.title} was not evaluated in the same way: {_specification(rows[0])} against "
                f"{_specification(row)}",
                f"{rows[0].where} and {row.where}",
                "evaluate all of them with the same settings",
            )


def _specification(row: Row) -> dict[str, Any]:
    """What the evaluator was told, but for the labels and draws to take: those have cells of their own."""
    told = row.record.get("spec", {})
    return {key: value for key, value in told.items() if key not in ("n_labels", "draws")}


def _identity(row: Row) -> Identity:
    kind = row.method if row.method in ("pixels", "supervised") else "pretrained"
    if row.method == "random":
        told = row.record.get("spec", {}) | row.record.get("settings", {})  # in settings: what `auto` chose
        frozen = told.get("strategy") in ("head", "top")  # then most of it stays random
        kind = "scratch" if row.evaluator.startswith("finetune/") and not frozen else "random"
    recipe = "" if kind in ("pixels", "random", "scratch") else row.run.removesuffix(f"-seed{row.seed}")
    return Identity(kind, row.method, recipe, row.images_seen, row.view_forwards)


def _the_same(known: Row, row: Row) -> Row:
    """Of two copies of a row the one that can be paired, or else the one whose run is at hand."""
    if (known.top1, known.encoder_sha256) != (row.top1, row.encoder_sha256):
        raise UserError(
            f"two different results of {row.run} (seed {row.seed}) for {row.evaluator}: "
            f"{known.top1:.2f} and {row.top1:.2f}",
            f"{known.where} and {row.where}",
            "compare one of them at a time",
        )
    return max(known, row, key=lambda copy: (copy.correct is not None, copy.folder is not None))


def _label(identity: Identity, others: Collection[Identity]) -> str:
    """The shortest name that tells a line from the others."""
    for level, name in enumerate(names := _names(identity)):
        if sum(_names(other)[level] == name for other in others) == 1:
            return name
    return names[-1]


def _names(identity: Identity) -> tuple[str, str, str]:
    kind, method, recipe, images, forwards = identity
    name = {"scratch": "scratch", "timm": recipe, "weights": recipe}.get(kind if kind == "scratch" else method, method)
    longer = f"{name} ({recipe})" if recipe else name
    return name, longer, f"{longer}, {images:,} images, {forwards:,} views"
