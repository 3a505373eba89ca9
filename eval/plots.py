"""Figures as inline SVG that takes its colours and font from the page, so that one drawing serves light and dark."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from eval.compare import Column, Group

NUM_SERIES = 6
# matplotlib writes these stand-ins; the page's variables take their place
_INK, _FAINT = "#010101", "#020202"
_SERIES = [f"#03030{number}" for number in range(NUM_SERIES)]
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {stand_in: f"var(--series-{number})" for number, stand_in in enumerate(_SERIES)}
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "ssl_cls", "font.size": 10, "text.parse_math": False, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "axes.edgecolor": _FAINT, "axes.labelcolor": _INK, "text.color": _INK,
    "xtick.color": _FAINT, "ytick.color": _FAINT, "xtick.labelcolor": _INK, "ytick.labelcolor": _INK, "xtick.labelsize": 9,
    "ytick.labelsize": 9, "ytick.major.size": 0, "axes.grid": True, "grid.color": _FAINT, "grid.linewidth": 0.5, "axes.axisbelow": True,
}  # fmt: skip


def dots(group: Group, column: Column, series: dict[str, int]) -> str:
    """Each line's mean and 95 % interval in one column; a dashed rule marks the baseline to beat.

    series: the colour number of each pretrained line's label.
    """
    lines = [line for line in group.lines if column in line.cells][::-1]
    baseline = "scratch" if column.family == "finetune" else "pixels"
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 0.62 + 0.27 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for height, line in enumerate(lines):
            cell, colour = line.cells[column], _SERIES[series[line.label]] if line.label in series else _INK
            if cell.half is not None:
                axes.plot([cell.mean - cell.half, cell.mean + cell.half], [height] * 2, color=colour, linewidth=2, solid_capstyle="butt")
            hollow = line.kind == "supervised"  # a reference, not a competitor
            axes.plot([cell.mean], [height], "o", color=colour, markersize=6, markerfacecolor="none" if hollow else colour)
            if line.kind == baseline:
                axes.axvline(cell.mean, color=_INK, linewidth=1, linestyle=(0, (3, 3)), zorder=0)
        axes.set_yticks(range(len(lines)), [_short(line.label) for line in lines])
        axes.set_ylim(-0.6, len(lines) - 0.4)
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        return _svg(figure, f"{column.title}: top-1 of each line with its interval")


def curves(runs: Sequence[tuple[int, Sequence[tuple[float, float]]]], name: str) -> str:
    """One figure of training against epochs: a curve a run, (series number, [(epoch, value), ...])."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for number, points in runs:
            axes.plot([x for x, _ in points], [y for _, y in points], color=_SERIES[number], linewidth=1.4)
        axes.set_xlabel("epoch")
        axes.margins(x=0.01)
        axes.grid(axis="x", visible=False)
        return _svg(figure, f"{name} against epochs")


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def _svg(figure: Figure, description: str) -> str:
    """The bare <svg> element: no XML prologue, metadata, namespaces or repeated ids, and colours as variables of the page."""
    out = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that matplotlib's own font lacks are drawn by the page's
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text
