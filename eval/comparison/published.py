"""What others have published, for context: beside our table, never in it.

published.csv holds figures as their authors state them, with repository, revision and file. Splits, settings,
augmentation and budgets are theirs, and many took the best epoch on the test set: no protocol here is one of
ours, and no row is paired with ours.
"""

import csv
import difflib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.comparison.compare import Group
from ssl_cls.errors import UserError

_ROWS = Path(__file__).with_name("published.csv")
_TRAIN_IMAGES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "fashion_mnist": 60_000,
    "imagenet": 1_281_167,
    "imagenet100": 126_689,
    "imagenette": 9_469,
    "stl10": 105_000,
}
_TITLES = {
    "knn": "kNN",
    "linear": "linear probe",
    "semi-supervised": "fine-tuned on few labels",
    "finetune": "fine-tuned on all labels",
    "supervised": "supervised",
}  # in this order
HEADER = ("method", "backbone", "top-1, %", "images seen", "pretrained on", "source", "note")


@dataclass(frozen=True)
class Published:
    dataset: str
    protocol: str  # a key of _TITLES: the kind of evaluation, as its authors did it
    labels: str  # "1 %": share of labels; "": all
    method: str
    backbone: str
    pretrained_on: str  # "": nothing
    epochs: float | None
    top1: float
    source: str  # repository@revision, path
    note: str

    @property
    def title(self) -> str:
        return _TITLES[self.protocol] + (f", {self.labels}" if self.labels else "")

    @property
    def images_seen(self) -> int | None:
        """Epochs times the images of the set pretrained (or, without pretraining, trained) on; None: not stated."""
        images = _TRAIN_IMAGES.get(self.pretrained_on or self.dataset)
        return None if images is None or not self.epochs else round(images * self.epochs)

    @property
    def cells(self) -> tuple[str, ...]:
        """Under HEADER."""
        seen = "" if self.images_seen is None else f"{self.images_seen:,}"
        return (self.method, self.backbone, f"{self.top1:.1f}", seen, self.pretrained_on, self.source, self.note)


def load(dataset: str) -> dict[str, list[Published]]:
    """The rows of a data set by kind of evaluation, the best first.

    Raises:
        UserError: no rows of a data set of that name.
    """
    with _ROWS.open(encoding="utf-8", newline="") as file:
        rows = list(map(_row, csv.DictReader(file)))
    names = sorted({row.dataset for row in rows})
    if dataset not in names:
        near = difflib.get_close_matches(dataset, names, n=1)
        fix = f"did you mean {near[0]}?" if near else f"there are rows of {', '.join(names)}"
        raise UserError(f"no published rows of {dataset!r}", "--published", fix)
    rows = sorted((row for row in rows if row.dataset == dataset), key=lambda row: (_rank(row), -row.top1))
    found: dict[str, list[Published]] = {}
    for row in rows:
        found.setdefault(row.title, []).append(row)
    return found


def caution(rows: Sequence[Published], groups: Sequence[Group]) -> Iterator[str]:
    """What must be known before our rows are held against these: protocols, and budgets in images seen."""
    yield "Published figures, under their authors' own protocols, splits and budgets: context, not a comparison."
    if chosen := sum("best epoch" in row.note or "best over" in row.note or "max over" in row.note for row in rows):
        yield f"{chosen} of these {len(rows)} are the best epoch on the images that they are reported on."
    seen = [row.images_seen for row in rows if row.images_seen and row.pretrained_on]
    for line in (line for group in groups if group.dataset == rows[0].dataset for line in group.lines):
        if seen and line.kind == "pretrained" and line.identity.images_seen:
            times = statistics.median(seen) / line.identity.images_seen
            yield (
                f"Unequal budgets: {line.label} here saw {line.identity.images_seen:,} images, the published "
                f"encoders a median of {round(statistics.median(seen)):,}, {times:.3g} times as many."
            )


def best_of_each(rows: Sequence[Published], most: int) -> list[Published]:
    """Of rows from best to worst the first of each method and backbone, at most so many."""
    best: dict[tuple[str, str], Published] = {}
    for row in rows:
        best.setdefault((row.method, row.backbone), row)
    return list(best.values())[:most]


def _rank(row: Published) -> tuple[int, float]:
    share = float(row.labels.removesuffix("%")) if row.labels else 100.0
    return list(_TITLES).index(row.protocol), share


def _row(cells: dict[str, str]) -> Published:
    revision = f"@{cells['revision']}" if cells["revision"] else ""
    return Published(
        dataset=cells["dataset"],
        protocol=cells["protocol"],
        labels=cells["labels"],
        method=cells["method"],
        backbone=cells["backbone"],
        pretrained_on=cells["pretrained_on"],
        epochs=float(cells["epochs"]) if cells["epochs"] else None,
        top1=float(cells["top1"]),
        source=f"{cells['repository']}{revision} {cells['path']}".strip(),
        note=cells["note"],
    )
