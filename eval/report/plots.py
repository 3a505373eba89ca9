"""Figures of a comparison: intervals, label efficiency, cost, training curves."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.comparison.compare import Group
from eval.comparison.efficiency import Panel
from eval.comparison.lines import Column
from eval.report import canvas
from eval.report.canvas import INK, MUTED, PAPER, SERIES, STYLE

_ROOMY = dict.fromkeys(("figure.constrained_layout.h_pad", "figure.constrained_layout.w_pad"), 0.08)  # inches
_SPREAD = 1.03  # curves stand this far apart on the logarithmic axis, so that their intervals can be told apart


def dots(group: Group, column: Column, series: Mapping[str, int]) -> str:
    """Each line's mean and 95 % interval in one column; a dashed rule marks the baseline to beat.

    series: the colour of the lines that have one, by label.
    """
    lines = [line for line in group.lines if column in line.cells][::-1]
    baseline = "scratch" if column.family == "finetune" else "pixels"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.8, 0.62 + 0.27 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for height, line in enumerate(lines):
            cell = line.cells[column]
            mean, half_width = cell.mean, cell.half_width()
            colour = SERIES[series[line.label]] if line.label in series else INK
            if half_width is not None:
                axes.plot([mean - half_width, mean + half_width], [height] * 2, color=colour, linewidth=2)
            face = "none" if line.kind == "supervised" else colour  # hollow: a reference, not a competitor
            axes.plot([mean], [height], "o", color=colour, markersize=6, markerfacecolor=face)
            if line.kind == baseline:
                axes.axvline(mean, color=INK, linewidth=1, linestyle=(0, (3, 3)), zorder=0)
        axes.set_yticks(range(len(lines)), [canvas.short(line.label) for line in lines])
        axes.set_ylim(-0.6, len(lines) - 0.4)
        axes.margins(x=0.08)
        axes.set_xlim(*_percent(axes.get_xlim()))
        axes.grid(axis="y", visible=False)
        return canvas.svg(figure, f"{column.title}: {group.measure} of each line with its interval")


def curves(runs: Sequence[tuple[int, Sequence[tuple[float, float]]]], name: str) -> str:
    """One logged figure: a curve a run, as (its colour, [(epoch, value), ...])."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.8, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for number, points in runs:
            marker = "o" if len(points) == 1 else None  # a line needs two
            axes.plot(*zip(*points, strict=True), color=SERIES[number], linewidth=1.4, marker=marker)
        axes.set_xlabel("epoch")
        axes.margins(x=0.01)
        axes.grid(axis="x", visible=False)
        return canvas.svg(figure, f"{name} against epochs")


def label_efficiency(panels: Sequence[tuple[str, Panel, Mapping[str, int]]]) -> str:
    """Accuracy over the number of labels, two panels in a row; rings mark where scratch catches up.

    panels: title, what to draw, and the colour of the lines that have one, by label.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE | _ROOMY):
        figure = Figure(figsize=(4.8 * columns, 3.3 * rows), layout="constrained")
        for number, (title, panel, series) in enumerate(panels):
            axes = figure.add_subplot(rows, columns, number + 1)
            _efficiency(axes, panel, series)
            axes.set_title(title, fontsize=10, loc="left", color=MUTED)
            if number % columns == 0:
                axes.set_ylabel(f"{panel.measure}, %")
        return canvas.svg(figure, "accuracy over the number of labels")


def _efficiency(axes: Axes, panel: Panel, series: Mapping[str, int]) -> None:
    for place, curve in enumerate(panel.curves):
        colour = SERIES[series[curve.label]] if curve.label in series else INK if curve.kind == "scratch" else MUTED
        shift = _SPREAD ** (place - len(panel.curves) / 2)
        labels = [n * shift for n in curve.points]
        means = [cell.mean for cell in curve.points.values()]
        halves = [cell.half_width() or 0.0 for cell in curve.points.values()]
        line = {"scratch": (0, (4, 2)), "random": (0, (1, 2))}.get(curve.kind, "solid")
        axes.errorbar(
            *(labels, means, halves),
            color=colour,
            linestyle=line,
            linewidth=1.5,
            elinewidth=1.2,
            marker="o",
            markersize=4,
            label=canvas.short(curve.label),
        )
    for mark in panel.crossings:
        axes.plot([mark.labels], [mark.top1], "o", color=INK, markersize=10, markerfacecolor="none")
    axes.set_xscale("log")
    axes.set_xlabel("labels")
    counts = sorted({n for curve in panel.curves for n in curve.points})
    axes.set_xticks(counts, [_count(n) for n in counts], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(*_percent(axes.get_ylim()))
    axes.legend(loc="lower right")


def _percent(limits: tuple[float, float]) -> tuple[float, float]:
    """What an axis shows of intervals that reach beyond 0 and 100 %."""
    return max(limits[0], -2.0), min(limits[1], 102.0)


def _count(n: int) -> str:
    return f"{n:,}" if n < 10_000 else f"{n / 1000:g}k"


def cost(group: Group, column: Column, series: Mapping[str, int]) -> str:
    """Accuracy against seconds of pretraining; what needs none is a level to clear."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.8, 2.6), layout="constrained")
        axes = figure.add_subplot()
        place = 0.01
        for line in (line for line in group.lines if column in line.cells):
            cell = line.cells[column]
            mean, half_width = cell.mean, cell.half_width()
            if line.seconds is None:
                axes.axhline(mean, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
                axes.annotate(
                    *(canvas.short(line.label), (place, mean), (0, 2)),
                    xycoords=axes.get_yaxis_transform(),
                    textcoords="offset points",
                    color=MUTED,
                    fontsize=9,
                )
                place += 0.2  # levels may be close together: their names stand side by side
                continue
            colour = SERIES[series[line.label]]
            face = PAPER if line.kind == "supervised" else colour
            axes.errorbar([line.seconds], [mean], [half_width or 0.0], color=colour, marker="o", markerfacecolor=face)
            axes.annotate(
                canvas.short(line.label), (line.seconds, mean), (7, 3), textcoords="offset points", fontsize=9
            )
        longest = max(line.seconds or 0.0 for line in group.lines if column in line.cells)
        axes.set_xlim(0, 1.4 * longest)  # names stand at the right of their points
        axes.margins(y=0.12)
        axes.set_ylim(*_percent(axes.get_ylim()))
        axes.set_xlabel("seconds of pretraining")
        return canvas.svg(figure, f"{column.title}: {group.measure} against seconds of pretraining")
