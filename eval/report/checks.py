"""What is checked about the data behind a comparison: small classes and test splits, leakage, unreadable images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.base import Context
from eval.comparison.compare import Group
from eval.comparison.rows import data_config
from eval.comparison.stats import wilson_interval
from eval.data import cautions, open_data
from eval.report import gallery, leakage, origins
from ssl_cls import config
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError

_CACHE: Path = Context.cache
_FEW = 2_000  # test images, below which chance moves a top-1 by 2 points and more


@dataclass
class Checks:
    """Of one group."""

    sentences: list[str] = field(default_factory=list)
    copies: list[gallery.Picture] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)  # unreadable files, each with its reason


def run(groups: Sequence[Group], say: Callable[[str], None] = lambda text: None) -> list[Checks]:
    """The checks of each group, by the recipes of its run directories."""
    return [_checks(group, say) for group in groups]


def _checks(group: Group, say: Callable[[str], None]) -> Checks:
    checks = Checks(_held_out(group))
    folders = origins.folders(group)
    judged = data_config(group.dataset, folders) if folders else None
    if judged is not None:
        try:
            checks.sentences += cautions(open_data(judged))
        except UserError as error:
            checks.sentences.append(f"Classes were not counted: {error.what}.")
    leaks: list[str] = []
    for data in dict.fromkeys(x for folder in folders if (x := _pretrained_on(folder))):
        try:
            pretraining = catalog.open(data, "train")
            checks.bad += pretraining.bad
            if judged is None:
                continue
            test = catalog.open(judged, "test")
            say(f"looking for images of {test.name} in {pretraining.name}")
            found = leakage.find(pretraining, test, _CACHE)
        except UserError as error:
            leaks.append(f"Leakage was not checked: {error.what}.")
            continue
        leaks.append(found.sentence)
        if found.pairs:
            checks.copies.append(
                gallery.copies(f"{test.name} in {pretraining.name}", pretraining, test, found.pairs, "correlation")
            )
    if not leaks and any(line.kind == "pretrained" for line in group.lines):
        leaks.append("Leakage was not checked: no run directory here says what was pretrained on.")
    checks.sentences += leaks
    return checks


def _held_out(group: Group) -> list[str]:
    """What a small test split leaves open, whatever the seeds: of the pretrained lines judged on all labels."""
    n = group.lines[0].every_row[0].n_test
    if group.measure != "top-1":  # mAP is no share of the images
        return [f"Only {n:,} images are tested on, which leaves much open."] if n < _FEW else []
    texts = []
    for column in (x for x in group.columns if x.family == "linear" and x.n_labels is None and n < _FEW):
        for line in (x for x in group.lines if x.kind == "pretrained" and column in x.cells):
            reached = line.cells[column].mean
            low, high = wilson_interval(reached, n)
            texts.append(f"{line.label} {reached:.1f} % ({low:.1f} to {high:.1f})")
    said = f"Only {n:,} images are tested on, which leaves open, at 95 %, by the linear probe: {', '.join(texts)}."
    return [said] if texts else []


def _pretrained_on(folder: Path) -> DataConfig | None:
    """The data of a run's recipe, without what it says of its views and workers: to look at them once."""
    try:
        return replace(config.load(folder / "recipe.yaml").data, size=None, workers="auto")
    except UserError:
        return None
