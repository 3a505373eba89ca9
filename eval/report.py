"""The report: one HTML file that needs nothing beside it, with the comparison's other forms next to it."""

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval import gallery, origins, plots, tables
from eval.base import Context
from eval.compare import Group
from eval.data import open_data
from eval.lines import Line
from eval.rows import data_config, optimism
from eval.verdict import notes, verdict
from ssl_cls.errors import UserError
from ssl_cls.run import environment

_FIGURES = {
    "embedding_std": "spread of the embedding",
    "effective_rank": "effective rank of the embedding",
    "val_knn_top1": "kNN on val, top-1 %",
}
_TEMPLATES = Path(__file__).parent / "templates"


def write(groups: Sequence[Group], command: Sequence[str], out: Path) -> list[Path]:
    """Write comparison.md, .csv, .tex and index.html into `out`; returns their paths.

    Rows that come from run directories add curves, pictures and recipes; committed rows alone do not.
    command: what is being run, for the report to quote.
    """
    texts = {
        "comparison.md": tables.markdown(groups),
        "comparison.csv": tables.comma_separated(groups),
        "comparison.tex": tables.latex(groups),
        "index.html": page(groups, command),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write the comparison: {error.strerror}",
            str(out),
            "name a folder that can be written with --out",
        ) from error
    return [out / name for name in texts]


def page(groups: Sequence[Group], command: Sequence[str]) -> str:
    # every template is HTML, whatever its ending: nothing decides about escaping by file name
    jinja = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    encoders = {key: rows for group in groups for key, rows in origins.encoders(group).items()}
    return jinja.get_template("report.html.j2").render(
        title="Comparison: " + "; ".join(tables.title(group) for group in groups),
        groups=[_section(group) for group in groups],
        difference_header=tables.DIFFERENCE[3:],
        num_series=plots.NUM_SERIES,
        commands=[
            *dict.fromkeys(text for group in groups for text in origins.commands(group)),
            shlex.join(command),
        ],
        runs=[origins.facts(rows) for rows in encoders.values()],
        environment=environment(),
    )


def _section(group: Group) -> dict[str, Any]:
    trained = [line for line in group.lines if line.kind in ("pretrained", "supervised")]
    series = {line.label: number % plots.NUM_SERIES for number, line in enumerate(trained)}
    header, _ = tables.cells(group)
    missing: list[str] = []
    return {
        "dataset": group.dataset,
        "backbone": group.backbone,
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
        "dots": [
            (tables.heading(column, group.columns), Markup(plots.dots(group, column, series)))
            for column in group.columns
        ],
        "differences": [
            {
                "line": x.line,
                "against": x.against,
                "column": x.column.title,
                "outcome": x.outcome,
                "figures": tables.difference(x)[3:],
            }
            for x in group.differences
        ],
        "optimism": _optimism(group),
        "curves": [(title, Markup(svg)) for title, svg in _curves(trained, series, missing)],
        "views": list(_views(trained, missing)),
        "neighbours": list(_neighbours(group, missing)),
        "missing": missing,
    }


def _optimism(group: Group) -> list[tuple[str, list[str]]]:
    """Best test score of any setting minus the reported one, in points, averaged: what nobody may claim."""
    table = []
    for line in group.lines:
        gaps = [
            [max(scores) - row.top1 for row in line.rows.get(column, []) if (scores := optimism(row))]
            for column in group.columns
        ]
        if any(gaps):
            table.append((line.label, [f"{sum(each) / len(each):+.2f}" if each else "" for each in gaps]))
    return table


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


def _views(lines: Sequence[Line], missing: list[str]) -> Iterator[gallery.Picture]:
    """Of the first run of each line; what cannot be shown is said in `missing`."""
    for line in lines:
        if folder := next((row.folder for row in line.every_row if row.folder), None):
            try:
                yield gallery.views(line.label, folder)
            except UserError as error:
                missing.append(f"No views of {line.label}: {error.what}.")


def _neighbours(group: Group, missing: list[str]) -> Iterator[gallery.Picture]:
    """Of the first run of each line of frozen features; what cannot be shown is said in `missing`."""
    config = data_config(group.dataset, origins.folders(group)) if origins.folders(group) else None
    if config is None:
        return
    try:
        data = open_data(config)
    except UserError as error:
        missing.append(f"No nearest neighbours: {error.what}.")
        return
    for line in (line for line in group.lines if line.kind != "scratch"):
        row = line.every_row[0]
        try:
            spec = origins.spec(row, group)
            yield gallery.neighbours(line.label, spec, row, data, Context(torch.device("cpu")))
        except UserError as error:
            missing.append(f"No nearest neighbours of {line.label}: {error.what}.")
