"""What the README claims is what the committed rows say, and its commands are real."""

import re
from pathlib import Path

import pytest

from eval import tables
from eval.compare import compare
from eval.rows import collect

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("results", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda path: path.name)
def test_the_tables_are_made_from_the_committed_rows(results: Path) -> None:
    assert f"(results/{results.name})" in README
    assert tables.markdown(compare(collect([results]))).strip() in README


def test_every_file_that_the_readme_names_exists() -> None:
    linked = set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))
    named = set(re.findall(r"\b((?:recipes|tools|results)/[\w./-]+\.(?:yaml|py|jsonl))", README))
    assert len(linked | named) > 10
    assert not [name for name in linked | named if not (ROOT / name).exists()]


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert asked
    assert asked <= targets
