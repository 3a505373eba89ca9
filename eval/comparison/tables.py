"""A comparison as text: Markdown, CSV and LaTeX. Every name in it may be hostile and is escaped."""

import csv
import html
import io
import re
from collections.abc import Sequence

from eval.comparison.compare import Difference, Group
from eval.comparison.lines import Column, Line
from eval.comparison.stats import Interval
from eval.comparison.verdict import notes, verdict

BASELINES = ("scratch", "pixels", "random")
DIFFERENCE = (
    *("encoder", "minus", "evaluated by", "points", "95 %, test images", "95 %, seeds and draws", "p"),
    "McNemar, runs",
)
_COSTS = ("images seen", "view forwards", "pretraining, s")
_CSV = (
    *("dataset", "backbone", "line", "kind", "evaluator", "n_labels", "top1", "half_width", "seeds", "draws"),
    *("images_seen", "view_forwards", "seconds"),
    *(f"{figure}_{base}" for base in BASELINES for figure in ("minus", "low", "high", "p", "runs", "mcnemar")),
)
_TEX = {character: "\\" + character for character in "{}$&#%_"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
}


def title(group: Group) -> str:
    return f"{group.dataset}, {group.backbone}" if group.backbone else group.dataset


def heading(column: Column, columns: Sequence[Column]) -> str:
    """A column's title, with the evaluator's version where another one stands beside it."""
    twins = [other for other in columns if other.title == column.title]
    return column.title if len(twins) == 1 else f"{column.title} ({column.evaluator})"


def cells(group: Group) -> tuple[list[str], list[list[str]]]:
    """The table as strings: header, lines."""
    header = [f"{group.measure}, %", *(heading(column, group.columns) for column in group.columns), *_COSTS]
    lines = [
        [line.label, *(_value(line.cells.get(column)) for column in group.columns), *costs(line)]
        for line in group.lines
    ]
    return header, lines


def _value(cell: Interval | None) -> str:
    if cell is None:
        return ""
    half_width = cell.half_width()
    return f"{cell.mean:.1f}{'' if half_width is None else f' ± {half_width:.1f}'} (n={cell.n})"


def costs(line: Line) -> tuple[str, str, str]:
    """Images seen, view forwards and seconds of pretraining; empty where there was none."""
    if not line.identity.images_seen:
        return "", "", ""
    seconds = "" if line.seconds is None else f"{line.seconds:,.0f}"
    return f"{line.identity.images_seen:,}", f"{line.identity.view_forwards:,}", seconds


def difference(test: Difference) -> tuple[str, ...]:
    """A paired test under the headings of DIFFERENCE."""
    what = (test.line, test.against, test.column.title)
    if test.refused:
        return (*what, "refused: broken baseline", "", "", "", "")
    half_width, n = test.spread.half_width(), f"n={test.spread.n}"
    spread = n if half_width is None else f"± {half_width:.1f} ({n})"
    p = "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
    alone = "" if test.mcnemar is None else f"{test.mcnemar} of {test.pairs}"
    return (*what, f"{test.points:+.1f}", f"{test.low:+.1f} to {test.high:+.1f}", spread, p, alone)


def markdown(groups: Sequence[Group]) -> str:
    parts = []
    for group in groups:
        parts += [
            f"## {escaped(title(group))}",
            f"**{escaped(verdict(group).headline)}**",
            markdown_table(*cells(group)),
        ]
        if group.differences:
            parts.append(markdown_table(list(DIFFERENCE), [list(difference(test)) for test in group.differences]))
        if said := notes(group):
            parts.append("\n".join(f"- {escaped(note)}" for note in said))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(text, quote=False))


def markdown_table(header: list[str], lines: list[list[str]]) -> str:
    rule = "| --- |" + " ---: |" * (len(header) - 1)
    top, *rest = ("| " + " | ".join(map(escaped, line)) + " |" for line in (header, *lines))
    return "\n".join((top, rule, *rest))


def comma_separated(groups: Sequence[Group]) -> str:
    """Long form: a line for each cell of the tables, in full precision, its differences beside it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV)
    for group in groups:
        tests = {(test.line, test.column, test.against): test for test in group.differences if not test.refused}
        for line in group.lines:
            for column, cell in line.cells.items():
                names = (group.dataset, group.backbone, line.label, line.kind, column.evaluator)
                figures: list[float | None] = []
                for base in BASELINES:
                    test = tests.get((line.label, column, base))
                    figures += (
                        (test.points, test.low, test.high, test.p, test.pairs, test.mcnemar) if test else (None,) * 6
                    )
                budget = (line.identity.images_seen, line.identity.view_forwards, line.seconds)
                spread = (cell.mean, cell.half_width(), cell.seeds, cell.draws)
                writer.writerow([*map(_no_formula, names), column.n_labels, *spread, *budget, *figures])
    return out.getvalue()


def _no_formula(text: str) -> str:
    """Spreadsheets run a cell that begins with one of these; a quote before it makes it text."""
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def latex(groups: Sequence[Group]) -> str:
    parts = [r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}"]
    for group in groups:
        header, lines = cells(group)
        caption = rf"{_tex(title(group))}: {group.measure} in percent, mean $\pm$ 95\,\% Student t half-width."
        parts += [
            *(r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"),
            *(
                rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
                r"\toprule",
                _tex_line(header),
                r"\midrule",
            ),
            *map(_tex_line, lines),
            *(r"\bottomrule", r"\end{tabular}", r"\end{table}", ""),
        ]
    return "\n".join(parts)


def _tex_line(texts: Sequence[str]) -> str:
    return " & ".join(map(_tex, texts)) + r" \\"


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
