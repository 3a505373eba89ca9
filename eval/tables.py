"""A comparison as text: for the terminal, Markdown, CSV and LaTeX. Every name in it may be hostile and is escaped."""

import csv
import html
import io
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.console import Group as Stack
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from eval.compare import Cell, Column, Difference, Group, Line
from eval.verdict import notes, verdict

BASELINES = ("scratch", "pixels", "random")
COSTS = ("images seen", "view forwards", "pretraining, s")
_TEX = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_TEX |= {character: "\\" + character for character in "{}$&#%_"} | {"±": r"$\pm$", "−": "$-$", "–": "--", '"': r"\textquotedbl{}"}


def title(group: Group) -> str:
    return f"{group.dataset}, {group.backbone}" if group.backbone else group.dataset


def heading(column: Column, columns: Sequence[Column]) -> str:
    """A column's title, with the evaluator's version where another one stands beside it."""
    twins = [other for other in columns if (other.family, other.n_labels) == (column.family, column.n_labels)]
    return column.title if len(twins) == 1 else f"{column.title} ({column.evaluator})"


def value(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.mean:.1f}" + ("" if cell.half is None else f" ± {cell.half:.1f}") + f" (n={cell.n})"


def costs(line: Line) -> tuple[str, str, str]:
    seconds = "" if line.seconds is None else f"{line.seconds:,.0f}"
    return (f"{line.images_seen:,}", f"{line.view_forwards:,}", seconds) if line.images_seen else ("", "", "")


def difference(test: Difference) -> tuple[str, ...]:
    """Cells of the paired tests: what, against what, in which column, points, 95 % over images, over seeds and draws, p."""
    what = (test.line, test.against, test.column.title)
    if test.refused:
        return (*what, "refused: broken baseline", "", "", "")
    spread = f"n={test.n}" if test.half is None else f"± {test.half:.1f} (n={test.n})"
    p = "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
    return (*what, f"{test.points:+.1f}", f"{test.low:+.1f} to {test.high:+.1f}", spread, p)


DIFFERENCE = ("encoder", "minus", "evaluated by", "points", "95 %, test images", "95 %, seeds and draws", "p")


def cells(group: Group) -> tuple[list[str], list[list[str]]]:
    """The table as strings: header, lines."""
    header = ["top-1, %", *(heading(column, group.columns) for column in group.columns), *COSTS]
    return header, [[line.label, *(value(line.cells.get(column)) for column in group.columns), *costs(line)] for line in group.lines]


def terminal(groups: Sequence[Group], console: Console) -> None:
    for group in groups:
        answer = verdict(group)
        console.print()
        console.print(Text(answer.headline, style="bold"))
        console.print(_rich(*cells(group), Text(title(group))))
        if group.differences:
            console.print(_rich(list(DIFFERENCE), [list(difference(test)) for test in group.differences], Text("paired differences")))
        refusals = [note.startswith("REFUSED") for note in notes(group)]
        said = [Text(note, style="bold red" if refusal else "dim") for note, refusal in zip(notes(group), refusals, strict=True)]
        console.print(Padding(Stack(*said), (0, 1)))


def _rich(header: list[str], lines: list[list[str]], caption: Text) -> Table:
    table = Table(title=caption, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(Text(name), justify="left" if number == 0 else "right", no_wrap=number == 0, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def markdown(groups: Sequence[Group]) -> str:
    parts = []
    for group in groups:
        answer = verdict(group)
        parts += [f"## {_md(title(group))}", f"**{_md(answer.headline)}**", _md_table(*cells(group))]
        if group.differences:
            parts.append(_md_table(list(DIFFERENCE), [list(difference(test)) for test in group.differences]))
        parts.append("\n".join(f"- {_md(note)}" for note in notes(group)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _md(text: str) -> str:
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(text, quote=False))


def _md_table(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join("| " + " | ".join(cell if row is rows[1] else _md(cell) for cell in row) + " |" for row in rows)


def comma_separated(groups: Sequence[Group]) -> str:
    """Long form: a line for each cell of the tables, full precision, differences beside it."""
    out = io.StringIO()
    names = ["dataset", "backbone", "line", "kind", "evaluator", "n_labels", "top1", "half_width", "n", "images_seen", "view_forwards", "seconds"]
    names += [f"{figure}_{base}" for base in BASELINES for figure in ("minus", "low", "high", "p")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for group in groups:
        tests = {(test.line, test.column, test.against): test for test in group.differences if not test.refused}
        for line in group.lines:
            for column, cell in line.cells.items():
                against = [tests.get((line.label, column, base)) for base in BASELINES]
                writer.writerow(
                    [_plain(text) for text in (group.dataset, group.backbone, line.label, line.kind, column.evaluator)]
                    + [column.n_labels, cell.mean, cell.half, cell.n, line.images_seen, line.view_forwards, line.seconds]
                    + [figure for test in against for figure in ((test.points, test.low, test.high, test.p) if test else [None] * 4)]
                )
    return out.getvalue()


def _plain(text: str) -> str:
    """Spreadsheets run a cell that begins with one of these as a formula."""
    return "'" + text if text[:1] in tuple("=+-@\t\r") else text


def latex(groups: Sequence[Group]) -> str:
    parts = [r"% \usepackage{booktabs}; \usepackage[T1]{fontenc}"]
    for group in groups:
        header, lines = cells(group)
        body = [" & ".join(map(_tex, line)) + r" \\" for line in lines]
        parts += [
            r"\begin{table}", r"\centering", rf"\caption{{{_tex(title(group))}: top-1 accuracy in percent, mean $\pm$ 95\,\% Student t half-width.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", " & ".join(map(_tex, header)) + r" \\", r"\midrule",
            *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(parts)


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
