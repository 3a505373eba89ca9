"""A comparison on a terminal: tables that fit its width, by being cut into several where they must."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.comparison import tables
from eval.comparison.compare import Difference, Group
from eval.comparison.published import Published, best_of_each, caution
from eval.comparison.verdict import notes, verdict

_GAP = 2  # blanks between the columns of results
_EDGES = 2  # what the frame takes
_FIRST = 18  # what the first column is given at least, if it needs so much
_DIFFERENCE = ["", "by, labels", "points", "95 %, images", "p", "McNemar"]
_PUBLISHED = ["", "backbone", "top-1, %", "images", "source"]
_TITLE = "in %, mean ± 95 % half-width (seeds×draws)"


def show(groups: Sequence[Group], console: Console) -> None:
    """Verdict, results, differences from the hardest baseline of each cell, notes."""
    for group in groups:
        console.print(Text("\n" + verdict(group).headline, style="bold"))
        header, lines = _cells(group)
        name = f"{tables.title(group)}: {group.measure} {_TITLE}"
        for number, (top, part) in enumerate(_blocks(header, lines, console.width, _GAP)):
            console.print(_table("" if number else name, top, part, _GAP))
        if hardest := _hardest(group.differences):
            # what does not fit beside the points, from the right, is in the report
            top, part = next(_blocks(_DIFFERENCE, hardest, console.width, 1))
            console.print(_table("differences on the same test images, from the hardest baseline", top, part, 1))
        for note in notes(group):
            console.print(Text(note, style="bold red" if note.startswith("REFUSED") else "dim"))


def show_published(
    dataset: str, found: dict[str, list[Published]], groups: Sequence[Group], console: Console, most: int
) -> None:
    """The best published rows of each kind, in tables of their own, under a caution."""
    for title, rows in found.items():
        best = best_of_each(rows, most)
        name = f"published on {dataset}, {title}: the best {len(best)} of {len(rows)}"
        console.print(_table(name, _PUBLISHED, [_published(row) for row in best], 1))
    for text in caution([row for rows in found.values() for row in rows], groups):
        console.print(Text(text, style="dim"))


def _published(row: Published) -> list[str]:
    seen = "" if row.images_seen is None else f"{row.images_seen / 1e6:,.0f} M"
    repository = row.source.split("@")[0].split()[0]
    return [row.method[:_FIRST], row.backbone[:16], f"{row.top1:.1f}", seen, repository[:26]]


def _cells(group: Group) -> tuple[list[str], list[list[str]]]:
    """The table's strings, shorter: the title says what the brackets hold."""
    header, lines = tables.cells(group)
    body = [[label, *(text.replace("n=", "") for text in rest)] for label, *rest in lines]
    return ["", *(name.replace(", ", "\n") for name in header[1:])], body


def _blocks(
    header: list[str], lines: list[list[str]], width: int, gap: int
) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The table cut between columns, as many as fit beside the first; what would be empty is left out."""
    widths = [max(_width(line[at]) for line in (header, *lines)) for at in range(len(header))]
    widths[0] = min(widths[0], width // 3)  # a longer name is folded
    at = 1
    while at < len(header):
        end, used = at + 1, _EDGES + widths[0] + gap + widths[at]
        while end < len(header) and used + gap + widths[end] <= width:
            used += gap + widths[end]
            end += 1
        part = [[line[0], *line[at:end]] for line in lines if any(line[at:end])]
        if part:
            yield [header[0], *header[at:end]], part
        at = end


def _width(text: str) -> int:
    return max(map(len, text.split("\n")))


def _hardest(differences: Sequence[Difference]) -> list[list[str]]:
    """For each encoder and column the baseline that it leads by least: the others are in the report."""
    found: dict[tuple[str, object], Difference] = {}
    for test in differences:
        known = found.setdefault((test.line, test.column), test)
        if test.refused or (not known.refused and test.points < known.points):
            found[test.line, test.column] = test
    return [_difference(test) for test in found.values()]


def _difference(test: Difference) -> list[str]:
    _, _, column, points, images, spread, p, alone = tables.difference(test)
    half_width = "" if test.spread.error is None else " " + spread.replace("n=", "")
    return [f"{test.line} − {test.against}", column.removesuffix(" labels"), points + half_width, images, p, alone]


def _table(name: str, header: list[str], lines: list[list[str]], gap: int) -> Table:
    style = {"title_justify": "left", "box": box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, gap - 1, 0, 0)}
    table = Table(title=Text(name) if name else None, **style)  # type: ignore[arg-type]
    for number, text in enumerate(header):
        table.add_column(
            Text(text),
            justify="right" if number else "left",
            no_wrap=bool(number),
            overflow="fold",
            min_width=0 if number else min(_FIRST, max(_width(line[0]) for line in lines)),
        )
    for line in lines:
        table.add_row(*map(Text, line))
    return table
