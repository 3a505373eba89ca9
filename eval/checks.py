"""What is checked about the data behind a comparison: leakage into the test split, images that cannot be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval import gallery, leakage, origins
from eval.base import Context
from eval.compare import Group
from eval.rows import data_config
from ssl_cls import config
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError

_CACHE: Path = Context.cache


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
    checks = Checks()
    folders = origins.folders(group)
    judged = data_config(group.dataset, folders) if folders else None
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
            checks.sentences.append(f"Leakage was not checked: {error.what}.")
            continue
        checks.sentences.append(found.sentence)
        if found.pairs:
            checks.copies.append(gallery.copies(pretraining, test, found.pairs))
    if not checks.sentences and any(line.kind == "pretrained" for line in group.lines):
        checks.sentences.append("Leakage was not checked: no run directory here says what was pretrained on.")
    return checks


def _pretrained_on(folder: Path) -> DataConfig | None:
    try:
        return config.load(folder / "recipe.yaml").data
    except UserError:
        return None
