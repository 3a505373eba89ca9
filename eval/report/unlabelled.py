"""What can be said of encoders on images without labels: health, neighbours, clusters, and what to label first."""

import csv
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from rich.console import Console
from rich.text import Text
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn import functional as F

from eval import encoders
from eval.base import Context, Encoder, EvalData
from eval.features import extract
from eval.neighbours import nearest
from eval.report import canvas, gallery, plots
from eval.report.gallery import Picture, Thumbnail
from eval.report.pages import template
from eval.whole import whole
from ssl_cls import config
from ssl_cls.data import catalog
from ssl_cls.data.files import Files
from ssl_cls.data.source import Source
from ssl_cls.run import environment

_NUM_CLUSTERS, _CLUSTER_SHOWN = 12, 10
_NUM_NEIGHBOURS = 9
_TO_LABEL = 100  # images: what a person labels in an hour, and enough for a first test split
_NOT_KNOWN = "Accuracy cannot be known: no image here has a label."


@dataclass(frozen=True)
class Found:
    """What one encoder makes of the images."""

    label: str
    health: str  # the run's own verdict; "" where nothing was trained
    images_seen: int
    stable: float  # adjusted Rand index of two clusterings from different beginnings: 1 the same, 0 chance
    neighbours: Picture
    clusters: Picture
    to_label: list[str]  # files: the middles of as many clusters
    folder: Path | None


def present(runs: Sequence[Path], command: Sequence[str], out: Path, console: Console) -> Path:
    """Judge the runs' encoders without labels: sentences on the console, index.html and to_label.csv into `out`.

    Returns the path of the report.
    """
    data = config.load(runs[0] / "recipe.yaml").data
    train, val, test = (catalog.open(data, split) for split in ("train", "val", "test"))
    specs = {**{run.name: str(run) for run in runs}, "random": f"random:{runs[0]}", "pixels": "pixels"}
    everything = EvalData(train.name.rpartition("/")[0], train, val, test, 0)
    found = [_found(label, encoders.load(spec, everything, 0), train, test) for label, spec in specs.items()]
    advice = _advice(found[0].to_label, out / "to_label.csv", command)
    console.print(Text("\n" + _NOT_KNOWN, style="bold"))
    for one in found:
        if one.health:
            console.print(f"{one.label}: {one.health}", markup=False)
    for text in advice:
        console.print(text, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    if found[0].to_label and not (out / "to_label.csv").exists():  # a person may have begun to fill it in
        with whole(out / "to_label.csv") as writing:
            writing.write_text(_table(found[0].to_label), encoding="utf-8", errors="surrogateescape")
    with whole(out / "index.html") as writing:
        writing.write_text(_page(everything, found, advice, command), encoding="utf-8")
    return out / "index.html"


def _found(label: str, encoder: Encoder, train: Source, test: Source) -> Found:
    context = Context(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    bank, queries = (F.normalize(extract(encoder, source, context), dim=1) for source in (train, test))
    groups, order, stable = _clusters(bank, _NUM_CLUSTERS)
    health, come_from = encoder.provenance.health, encoder.provenance
    return Found(
        label,
        "; ".join(text for text in (health or {}).values() if text).replace("; ", ": ", 1),
        come_from.images_seen,
        stable,
        Picture(label, list(_neighbours(bank, queries, train, test))),
        Picture(label, list(_strips(groups, order, train))),
        _middles(bank, train) if come_from.images_seen else [],
        encoder.out.parent if come_from.images_seen else None,
    )


def _clusters(features: Tensor, most: int) -> tuple[Tensor, Tensor, float]:
    """Cluster of each row, int64 [N], the largest first; its distance to the middle, [N]; and how stable that is.

    k-means on unit-length features (spherical, but for the update), the best of three beginnings.
    """
    k = max(1, min(most, len(features) // 10))
    fits = [KMeans(k, n_init=3, random_state=seed).fit(features.numpy()) for seed in (0, 1)]
    stable = float(adjusted_rand_score(fits[0].labels_, fits[1].labels_))
    groups = torch.from_numpy(fits[0].labels_).long()
    rank = torch.bincount(groups, minlength=k).argsort(descending=True).argsort()
    distance = (features - torch.from_numpy(fits[0].cluster_centers_).float()[groups]).norm(dim=1)
    return rank[groups], distance, stable


def _strips(groups: Tensor, distance: Tensor, source: Source) -> Iterator[list[Thumbnail]]:
    """A strip a cluster: the images nearest to its middle."""
    for group in range(int(groups.max()) + 1):
        members = torch.nonzero(groups == group)[:, 0]
        chosen = members[distance[members].argsort()[:_CLUSTER_SHOWN]]
        yield [
            Thumbnail(gallery.uri(image), f"cluster of {len(members):,}: {_name(source, int(index))}")
            for index, image in zip(chosen, gallery.originals(source, chosen), strict=True)
        ]


def _neighbours(bank: Tensor, queries: Tensor, train: Source, test: Source) -> Iterator[list[Thumbnail]]:
    """Held-out images, the same for every encoder, each with its nearest training images by cosine."""
    chosen = torch.linspace(0, len(test) - 1, min(_NUM_CLUSTERS, len(test))).round().long()
    rows = nearest(bank, queries[chosen], _NUM_NEIGHBOURS)[0].rows
    for query, image, near in zip(chosen, gallery.originals(test, chosen), rows, strict=True):
        strip = [Thumbnail(gallery.uri(image), f"held out: {_name(test, int(query))}")]
        yield strip + [
            Thumbnail(gallery.uri(own), _name(train, int(index)))
            for index, own in zip(near, gallery.originals(train, near), strict=True)
        ]


def _middles(bank: Tensor, source: Source) -> list[str]:
    """The file nearest to the middle of each of 100 clusters: together they show what there is; sorted."""
    if not isinstance(source, Files):
        return []
    groups, distance, _ = _clusters(bank, _TO_LABEL)
    middles = [
        int(torch.where(groups == group, distance, torch.inf).argmin()) for group in range(int(groups.max()) + 1)
    ]
    return sorted({source.paths()[number] for number in middles})


def _name(source: Source, index: int) -> str:
    return source.store.path(index) if isinstance(source, Files) else f"image {index}"


def _table(paths: Sequence[str]) -> str:
    """A manifest with its label column left to be filled in."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["path", "label"], *([path, ""] for path in paths)])
    return text.getvalue()


def _advice(to_label: Sequence[str], path: Path, command: Sequence[str]) -> list[str]:
    if not to_label:
        return ["Give some of the images labels, and run this again: then it can be known."]
    again = shlex.join([*command, f"data.labels={path}"])
    return [
        f"Label these {len(to_label)} images first, which show what there is: fill in the column `label` of {path}, "
        f"20 images a class or more, rows added as needed.",
        f"Then run: {again}",
    ]


def _page(data: EvalData, found: Sequence[Found], advice: Sequence[str], command: Sequence[str]) -> str:
    trained = [one for one in found if one.folder]
    return template("unlabelled.html.j2").render(
        title=f"{data.name}, without labels",
        name=data.name,
        num_images=len(data.train) + len(data.val) + len(data.test),
        not_known=_NOT_KNOWN,
        advice=advice,
        found=found,
        trained=trained,
        curves=[(one.label, Markup(svg)) for number, one in enumerate(trained) for svg in _curves(one, number)],
        views=[gallery.views(one.label, one.folder) for one in trained if one.folder],
        num_series=canvas.NUM_SERIES,
        light=Markup(canvas.variables(canvas.LIGHT)),
        dark=Markup(canvas.variables(canvas.DARK)),
        command=shlex.join(command),
        environment=environment(),
    )


def _curves(one: Found, number: int) -> Iterator[str]:
    """Loss and effective rank over the epochs of a run."""
    assert one.folder is not None
    logged: list[dict[str, Any]] = [json.loads(x) for x in (one.folder / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "effective_rank"):
        points = [(entry["epoch"], entry[key]) for entry in logged if np.isfinite(entry.get(key, np.nan))]
        if points:
            yield plots.curves([(number % canvas.NUM_SERIES, points)], key.replace("_", " "))
