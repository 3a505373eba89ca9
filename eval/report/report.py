"""The report: one HTML file that needs nothing beside it, with the comparison's other forms next to it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich.console import Console

from eval.comparison import efficiency, published, tables, terminal
from eval.comparison.compare import Group, compare
from eval.comparison.published import Published
from eval.comparison.record import Row
from eval.report import canvas, checks, origins, plots
from eval.report.checks import Checks
from eval.report.pages import template
from eval.report.section import section, series_of
from ssl_cls.errors import UserError
from ssl_cls.run import environment

_BEST_SHOWN = 8  # published rows of a kind on a terminal; the report has all of them


def present(
    rows: Sequence[Row], command: Sequence[str], out: Path, console: Console, others: str | None = None
) -> Path:
    """Compare the rows: tables on the console, files into `out`. Returns the path of the report.

    command: what is being run, for the report to quote. others: a data set whose published rows stand beside.
    """
    beside = published.load(others) if others else {}
    groups = compare(rows)
    terminal.show(groups, console)
    found = checks.run(groups, lambda text: console.print(text, style="dim", markup=False))
    for sentence in dict.fromkeys(text for one in found for text in one.sentences):
        console.print(sentence, markup=False)
    if others:
        terminal.show_published(others, beside, groups, console, _BEST_SHOWN)
    return write(groups, command, out, found, beside)[-1]


def write(
    groups: Sequence[Group],
    command: Sequence[str],
    out: Path,
    found: Sequence[Checks] | None = None,
    beside: dict[str, list[Published]] | None = None,
) -> list[Path]:
    """Write comparison.md, .csv, .tex, label_efficiency.svg where there are curves, and index.html into `out`.

    Rows that come from run directories add curves, pictures and recipes; committed rows alone do not.
    """
    found = found or [Checks() for _ in groups]
    texts = {
        "comparison.md": tables.markdown(groups) + _appended(groups, found, beside or {}),
        "comparison.csv": tables.comma_separated(groups),
        "comparison.tex": tables.latex(groups),
    }
    if drawing := label_efficiency(groups):
        texts["label_efficiency.svg"] = drawing
    texts["index.html"] = page(groups, command, found, beside)
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


def label_efficiency(groups: Sequence[Group]) -> str:
    """The curves of all groups, as an SVG file's text; "" where none has any."""
    panels = [
        (f"{canvas.short(group.backbone)}: {panel.title}", panel, series_of(group))
        for group in groups
        for panel in efficiency.panels(group)
    ]
    return canvas.standalone(plots.label_efficiency(panels)) if panels else ""


def page(
    groups: Sequence[Group],
    command: Sequence[str],
    found: Sequence[Checks] | None = None,
    beside: dict[str, list[Published]] | None = None,
) -> str:
    found = found or [Checks() for _ in groups]
    encoders = {key: rows for group in groups for key, rows in origins.encoders(group).items()}
    others = [row for rows in (beside or {}).values() for row in rows]
    return template("report.html.j2").render(
        title="Comparison: " + "; ".join(tables.title(group) for group in groups),
        groups=[section(group, one) for group, one in zip(groups, found, strict=True)],
        difference_header=tables.DIFFERENCE[3:],
        num_series=canvas.NUM_SERIES,
        light=Markup(canvas.variables(canvas.LIGHT)),
        dark=Markup(canvas.variables(canvas.DARK)),
        published=beside or {},
        published_header=published.HEADER,
        cautions=list(published.caution(others, groups)) if others else [],
        others=others[0].dataset if others else "",
        commands=[
            *dict.fromkeys(text for group in groups for text in origins.commands(group)),
            shlex.join(command),
        ],
        runs=[origins.facts(rows) for rows in encoders.values()],
        environment=environment(),
    )


def _appended(groups: Sequence[Group], found: Sequence[Checks], beside: dict[str, list[Published]]) -> str:
    """What stands below the tables in Markdown: leakage, and published rows in tables of their own."""
    sentences = list(dict.fromkeys(text for one in found for text in one.sentences))  # groups may share data
    parts = ["\n".join(f"- {tables.escaped(text)}" for text in sentences)] if sentences else []
    if others := [row for rows in beside.values() for row in rows]:
        parts.append(f"## Published on {tables.escaped(others[0].dataset)}")
        parts.append("\n".join(f"- {tables.escaped(text)}" for text in published.caution(others, groups)))
        for title, rows in beside.items():
            parts += [f"### {title}", tables.markdown_table(list(published.HEADER), [list(row.cells) for row in rows])]
    return "".join(f"\n{part}\n" for part in parts)
