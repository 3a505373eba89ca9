"""The comparison on a terminal: it fits, and nothing is lost by fitting."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from eval.comparison import tables, terminal
from eval.comparison.compare import Group, compare
from eval.comparison.rows import collect

RESULTS = Path(__file__).parents[3] / "results" / "fashion_mnist.jsonl"


@pytest.fixture(scope="module")
def group() -> Group:
    groups = compare(collect([RESULTS]))
    return next(group for group in groups if any(line.label == "simclr" for line in group.lines))


def shown(group: Group, width: int) -> str:
    screen = io.StringIO()
    terminal.show([group], Console(file=screen, width=width, color_system=None))
    return screen.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 250])
def test_every_value_stands_whole_on_a_line_at_any_width(group: Group, width: int) -> None:
    text = shown(group, width)
    assert max(map(len, text.splitlines())) <= width
    lines = text.splitlines()
    for line in group.lines:
        own = [x for x in lines if x.split() and x.split()[0] == line.label]
        for cell in line.cells.values():
            value = f"{cell.mean:.1f}" + (f" ± {cell.half_width():.1f}" if cell.error is not None else "")
            assert any(f"{value} ({cell.n})" in x for x in own), (line.label, value)
        for cost in filter(None, tables.costs(line)):
            assert any(cost in x for x in own)


def test_a_wide_terminal_has_one_table_and_a_narrow_one_several(group: Group) -> None:
    def heads(width: int) -> int:
        return sum(line.split()[:1] == ["simclr"] for line in shown(group, width).splitlines())

    differences = len({test.column for test in group.differences if test.line == "simclr"})
    assert heads(250) == 1 + differences
    assert heads(80) == 2 + differences


def test_differences_are_from_the_hardest_baseline(group: Group) -> None:
    text = shown(group, 200)
    for method, column in {(test.line, test.column) for test in group.differences}:
        tests = [test for test in group.differences if (test.line, test.column) == (method, column)]
        hardest = min(tests, key=lambda test: test.points)
        wanted = (
            f"{method} − {hardest.against}",
            column.title.removesuffix(" labels"),
            f"{hardest.points:+.1f}" + " ± " * (hardest.spread.error is not None),
        )
        assert any(all(part in line for part in wanted) for line in text.splitlines()), wanted


@pytest.mark.parametrize("width", [60, 80, 250])
def test_a_table_of_baselines_alone_is_shown(group: Group, width: int) -> None:
    """Where nothing was pretrained yet, columns of costs are empty: no table is made of them."""
    baselines = [
        line for line in group.lines if line.kind != "pretrained" and not any(filter(None, tables.costs(line)))
    ]
    text = shown(replace(group, lines=baselines, differences=[]), width)
    assert "random" in text
