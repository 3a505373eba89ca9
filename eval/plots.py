"""Figures as inline SVG with the page's colours and font, so that one drawing serves light and dark."""

import hashlib
import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from eval.compare import Group
from eval.lines import Column

NUM_SERIES = 6
# matplotlib writes these stand-ins; variables of the page take their place
_INK, _FAINT = "#010101", "#020202"
_SERIES = [f"#03030{number}" for number in range(NUM_SERIES)]
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {
    stand_in: f"var(--series-{number})" for number, stand_in in enumerate(_SERIES)
}
_STYLE = {
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), _INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _FAINT),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "ytick.major.size": 0,
    "font.size": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    # text stays text, names are not formulas, and the same figure is the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "ssl_cls",
}


def dots(group: Group, column: Column, series: Mapping[str, int]) -> str:
    """Each line's mean and 95 % interval in one column; a dashed rule marks the baseline to beat.

    series: the colour of the lines that have one, by label.
    """
    lines = [line for line in group.lines if column in line.cells][::-1]
    baseline = "scratch" if column.family == "finetune" else "pixels"
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 0.62 + 0.27 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for height, line in enumerate(lines):
            mean, half_width, _ = line.cells[column]
            colour = _SERIES[series[line.label]] if line.label in series else _INK
            if half_width is not None:
                axes.plot([mean - half_width, mean + half_width], [height] * 2, color=colour, linewidth=2)
            face = "none" if line.kind == "supervised" else colour  # hollow: a reference, not a competitor
            axes.plot([mean], [height], "o", color=colour, markersize=6, markerfacecolor=face)
            if line.kind == baseline:
                axes.axvline(mean, color=_INK, linewidth=1, linestyle=(0, (3, 3)), zorder=0)
        axes.set_yticks(range(len(lines)), [_short(line.label) for line in lines])
        axes.set_ylim(-0.6, len(lines) - 0.4)
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        return _svg(figure, f"{column.title}: top-1 of each line with its interval")


def curves(runs: Sequence[tuple[int, Sequence[tuple[float, float]]]], name: str) -> str:
    """One logged figure: a curve a run, as (its colour, [(epoch, value), ...])."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for number, points in runs:
            axes.plot(*zip(*points, strict=True), color=_SERIES[number], linewidth=1.4)
        axes.set_xlabel("epoch")
        axes.margins(x=0.01)
        axes.grid(axis="x", visible=False)
        return _svg(figure, f"{name} against epochs")


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def _svg(figure: Figure, description: str) -> str:
    """The bare <svg> element: no prologue, metadata or namespaces, ids of its own, colours the page's."""
    out = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that matplotlib's own font lacks: the page has them
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    for size in ("width", "height"):  # the page decides; viewBox keeps the proportions
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    own = hashlib.sha256(text.encode()).hexdigest()[:8]
    for name in set(re.findall(r' id="([a-z]+[0-9a-f]{10})"', text)):  # markers and clip paths
        text = text.replace(name, f"{name}-{own}")
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
