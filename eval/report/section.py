"""The report's section on one group: all that its template shows, computed or drawn."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from eval.base import Context, EvalData
from eval.comparison import efficiency, tables
from eval.comparison.compare import Group
from eval.comparison.lines import Column, Line
from eval.comparison.rows import data_config, health
from eval.comparison.verdict import notes, verdict
from eval.data import open_data
from eval.report import answers, canvas, gallery, looks, neighbourhood, origins, plots
from eval.report.checks import Checks
from eval.report.gallery import Picture
from ssl_cls.data.source import all_labels
from ssl_cls.errors import UserError
from ssl_cls.health import Verdict

_FIGURES = {
    "embedding_std": "spread of the embedding",
    "effective_rank": "effective rank of the embedding",
    "teacher_entropy": "entropy of the teacher",
    "val_knn_top1": "kNN on val, top-1 %",
}
_MISTAKES = 12


def section(group: Group, checks: Checks) -> dict[str, Any]:
    """What report.html.j2 knows of a group. What cannot be shown is said in `missing`."""
    trained, series = _trained(group), series_of(group)
    missing: list[str] = []
    data = _data(group, missing)
    return {
        **_numbers(group, series),
        "checks": checks,
        "dots": [
            (tables.heading(column, group.columns), Markup(plots.dots(group, column, series)))
            for column in _at_a_glance(group.columns)
        ],
        **_labels(group, series),
        "costs": [Markup(svg) for svg in _costs(group, series)],
        "health": list(_health(trained)),
        "curves": [(title, Markup(svg)) for title, svg in _curves(trained, series, missing)],
        **_answers(group, data),
        "looks": _looks(group, data, missing),
        **_features(group, data, missing),
        **_pictures(trained, missing),
        "missing": missing,
    }


def series_of(group: Group) -> dict[str, int]:
    """Which colour each line of a trained encoder has, by label; baselines have none."""
    return {line.label: number % canvas.NUM_SERIES for number, line in enumerate(_trained(group))}


def _trained(group: Group) -> list[Line]:
    return [line for line in group.lines if line.kind in ("pretrained", "supervised")]


def _at_a_glance(columns: Sequence[Column]) -> list[Column]:
    """All labels, and of each way of using fewer the fewest and the most: curves show what lies between."""
    few = [[x for x in columns if x.n_labels and x.family == family] for family in {x.family for x in columns}]
    ends = {column for found in few if found for column in (found[0], found[-1])}
    return [column for column in columns if column.n_labels is None or column in ends]


def _numbers(group: Group, series: dict[str, int]) -> dict[str, Any]:
    header, _ = tables.cells(group)
    return {
        "dataset": group.dataset,
        "backbone": group.backbone,
        "measure": group.measure,
        "verdict": verdict(group),
        "notes": notes(group),
        "header": header,
        "columns": len(group.columns),
        "lines": [
            {
                "label": line.label,
                "series": series.get(line.label),
                "reference": line.kind == "supervised",
                "cells": [line.cells.get(column) for column in group.columns],
                "costs": tables.costs(line),
            }
            for line in group.lines
        ],
        "n_test": group.lines[0].every_row[0].n_test,
        "differences": [
            {
                "line": x.line,
                "against": x.against,
                "column": x.column.title,
                "outcome": x.outcome(),
                "figures": tables.difference(x)[3:],
            }
            for x in group.differences
        ],
        "optimism": _optimism(group),
    }


def _data(group: Group, missing: list[str]) -> EvalData | None:
    """The images that were judged on, where a run directory says how to open them."""
    folders = origins.folders(group)
    config = data_config(group.dataset, folders) if folders else None
    if config is None:
        return None
    try:
        return open_data(config)
    except UserError as error:
        missing.append(f"No images: {error.what}.")
        return None


def _labels(group: Group, series: dict[str, int]) -> dict[str, Any]:
    """Label-efficiency curves, and what they say."""
    panels = efficiency.panels(group)
    return {
        "efficiency": [Markup(plots.label_efficiency([(panel.title, panel, series)])) for panel in panels],
        "efficiency_says": [text for panel in panels for text in panel.sentences],
    }


def _costs(group: Group, series: dict[str, int]) -> Iterator[str]:
    """A panel for the linear probe and one for fine-tuning on the most labels, where pretraining was timed."""
    linear = [column for column in group.columns if column.family == "linear" and not column.variant]
    for column in (*linear[-1:], group.tuned):
        if column and any(line.seconds is not None and column in line.cells for line in group.lines):
            yield plots.cost(group, column, series)


def _answers(group: Group, data: EvalData | None) -> dict[str, Any]:
    """Confusion matrices of the best method and scratch, and the best method's most stubborn mistakes."""
    shown = answers.best_and_scratch(group) if group.measure == "top-1" else []  # several labels confuse no two
    fitting = data is not None and all(
        one.given.shape[1] == len(data.test) and one.given.max() < data.num_classes for one in shown
    )
    if data is None or not shown or not fitting:  # nothing was kept, or it belongs to other images
        return {"confusions": [], "mistakes": [], "mistaken": ""}
    labels = np.asarray(all_labels(data.test))
    names = data.test.class_names or [f"class {k}" for k in range(data.num_classes)]
    wrong = answers.mistakes(shown[0], labels, data.num_classes, _MISTAKES)
    return {
        "confusions": [answers.confusion(one, labels, names) for one in shown],
        "mistakes": gallery.wrong(data.test, wrong),
        "mistaken": f"{shown[0].label}, {shown[0].column.title}",
    }


def _looks(group: Group, data: EvalData | None, missing: list[str]) -> list[Picture]:
    """Where the classifiers of the first run of each line looked, after fine-tuning on the most labels."""
    found: list[Picture] = []
    if data is None or not (column := group.tuned):
        return found
    for line in (line for line in group.lines if column in line.rows):
        kept = [path for row in line.rows[column] if (path := row.kept("classifier"))]
        try:
            found += [looks.looks(line.label, path, data.test) for path in kept[:1]]
        except UserError as error:
            missing.append(f"Where {line.label} looks is not shown: {error.what}.")
    return found


def _features(group: Group, data: EvalData | None, missing: list[str]) -> dict[str, Any]:
    """Neighbours and map of the first run of each line of frozen features; of one, what it finds most alike."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # features are kept by where they were made
    neighbours: list[Picture] = []
    maps: list[neighbourhood.Map] = []
    alike: list[Picture] = []
    for line in (line for line in group.lines if line.kind != "scratch" and data is not None):
        row = line.every_row[0]
        try:
            assert data is not None
            encoder = neighbourhood.known(origins.spec(row, group), row, data, Context(device))
        except UserError as error:
            missing.append(f"No nearest neighbours and no map of {line.label}: {error.what}.")
            continue
        neighbours.append(neighbourhood.neighbours(line.label, encoder))
        maps.append(neighbourhood.feature_map(line.label, encoder))
        if line.kind == "pretrained" and not alike:
            seen = neighbourhood.seen(encoder.encoder, row.folder, Context(device))
            alike.append(neighbourhood.closest(line.label, encoder, seen))
        if drawn := neighbourhood.umap(line.label, encoder):
            maps.append(drawn)
    names = (data.test.class_names or []) if data else []
    present = sorted({label for drawn in maps for label in drawn.points})
    classes = {label: names[label] if label < len(names) else f"class {label}" for label in present}
    return {"neighbours": neighbours, "maps": maps, "classes": classes, "alike": alike}


def _pictures(lines: Sequence[Line], missing: list[str]) -> dict[str, Any]:
    """Views, and reconstructions where there are any, of the first run of each line."""
    views: list[Picture] = []
    reconstructions: list[Picture] = []
    for line in lines:
        if folder := next((row.folder for row in line.every_row if row.folder), None):
            try:
                views.append(gallery.views(line.label, folder))
                if found := gallery.reconstructions(line.label, folder):
                    reconstructions.append(found)
            except UserError as error:
                missing.append(f"No views of {line.label}: {error.what}.")
    return {"views": views, "reconstructions": reconstructions}


def _optimism(group: Group) -> list[tuple[str, list[str]]]:
    """Best test score of any setting minus the reported one, in points, averaged: what nobody may claim."""
    table = []
    for line in group.lines:
        gaps = [
            [row.best_on_test - row.top1 for row in line.rows.get(column, []) if row.best_on_test is not None]
            for column in group.columns
        ]
        if any(gaps):
            table.append((line.label, [f"{sum(each) / len(each):+.2f}" if each else "" for each in gaps]))
    return table


def _health(lines: Sequence[Line]) -> Iterator[tuple[str, Verdict]]:
    """What each run said of itself at its end; nothing of those that are known by committed rows alone."""
    for folder in dict.fromkeys(row.folder for line in lines for row in line.every_row if row.folder):
        if verdict := health(folder):
            yield folder.name, verdict


def _curves(lines: Sequence[Line], series: dict[str, int], missing: list[str]) -> Iterator[tuple[str, str]]:
    """A panel of losses for each line, since methods share no scale of loss, then the figures that do."""
    logged: list[tuple[Line, list[dict[str, Any]]]] = []
    for line in lines:
        for folder in dict.fromkeys(row.folder for row in line.every_row):
            try:
                text = (folder / "metrics.jsonl").read_text(encoding="utf-8") if folder else ""
                logged.append((line, [json.loads(entry) for entry in text.splitlines()]))
            except (OSError, ValueError):
                missing.append(f"No training curve of {line.label}: {folder}/metrics.jsonl cannot be read.")

    def points(key: str, only: Line | None = None) -> list[tuple[int, list[tuple[float, float]]]]:
        chosen = ((line, entries) for line, entries in logged if only is None or line is only)
        found = [(series[line.label], [(x["epoch"], x[key]) for x in entries if key in x]) for line, entries in chosen]
        return [(number, curve) for number, curve in found if curve]

    for line in lines:
        if runs := points("loss", line):
            yield f"{line.label}: loss", plots.curves(runs, "loss")
    for key, title in _FIGURES.items():
        if runs := points(key):
            yield title, plots.curves(runs, title)
