"""Images with several labels each, through the one command and the report that it ends with."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from eval.comparison.compare import compare
from eval.comparison.record import Row
from eval.comparison.rows import collect
from eval.report import origins

ROOT = Path(__file__).parents[2]
NAMES = ("red", "green", "blue")
SUITE = """
name: small
recipes: [recipe.yaml]
seeds: [0]
few_label: {n_labels: [12], draws: 2}
fine_tune: {n_labels: [12], draws: 2, learning_rates: [1.0e-3], steps: 5}
"""
RECIPE = """
name: simclr
data: {source: folder}
backbone: {name: resnet_small, args: {channels: [8, 16]}, pooling: avg}
method: {name: simclr}
optim: {name: adamw, lr: 1.0e-3}
train: {epochs: 0.5, batch_size: 16}
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """80 noisy pictures of 32 pixels; each colour that is bright is a label, one has none."""
    rng, folder, lines = np.random.default_rng(0), tmp_path / "images", []
    folder.mkdir()
    for number in range(80):
        has = rng.random(3) < 0.5 if number else np.zeros(3, bool)
        pixels = rng.integers(0, 100, (32, 32, 3)) + 120 * has
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        labels = [name for name, there in zip(NAMES, has, strict=True) if there]
        lines.append(json.dumps({"path": f"{number}.png", "labels": labels}))
    (tmp_path / "labels.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    return tmp_path


@pytest.mark.slow
def test_the_suite_ends_with_an_answer(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    tool = runpy.run_path(str(ROOT / "tools" / "suite.py"))
    monkeypatch.chdir(images)
    tool["run"]("suite.yaml", ["data.path=images", "data.labels=labels.jsonl", "data.size=32"], dry_run=False)
    (out,) = Path("runs").glob("small-*")
    page = (out / "index.html").read_text()
    markdown = (out / "comparison.md").read_text()
    assert "mAP, %" in markdown
    assert "\n| scratch |" in markdown
    assert re.search(r"\*\*(Yes|No|Not shown)", markdown)  # an answer, whichever
    assert re.search(r"\| simclr \| scratch \| fine-tuned, 12 labels \| [+-]", markdown)
    assert "What it finds alike" in page
    assert "Where it looks" in page
    assert "flattened" in page
    assert re.search(r"image \d+: (\w+), \w+", page)  # an image and all its labels
    assert "Confusion" not in page

    rows = collect([folder for folder in out.iterdir() if (folder / "eval").is_dir()])
    (group,) = compare(rows)
    evaluate, ran = runpy.run_path(str(ROOT / "tools" / "evaluate.py")), []
    for command in origins.commands(group):
        program, tool, *words = shlex.split(command)
        if program == "python":
            assert escape(command) in page
            monkeypatch.setattr(sys, "argv", [tool, *words])
            with pytest.raises(SystemExit) as ended:
                evaluate["main"]()
            assert ended.value.code == 0
            ran.append(words[0])
    assert len(ran) == 3
    made = collect([images / "runs" / "pixels", images / "runs" / "random-resnet_small-channels-8-16-seed0"])
    assert _scores(made) == _scores([row for row in rows if row.method != "simclr"])
    assert len(collect([out / "simclr-seed0"])) == sum(row.method == "simclr" for row in rows)  # all were known

    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(out / "simclr-seed0"), "--evaluators", "features"])
    with pytest.raises(SystemExit):
        evaluate["main"]()
    columns = parquet.read_table(out / "simclr-seed0" / "eval" / "features" / "test.parquet").to_pydict()
    answered = np.load(next((out / "simclr-seed0" / "eval" / "predictions").glob("*/linear-v1.npy"))) > 0
    assert columns["linear-v1"] == [[sorted(NAMES)[k] for k in np.flatnonzero(own)] for own in answered]
    truth = {line["path"]: line["labels"] for line in map(json.loads, Path("labels.jsonl").read_text().splitlines())}
    for number, path in enumerate(columns["path"]):
        assert {name for name in NAMES if columns[f"is {name}"][number]} == set(truth[path])
    each = json.loads(next((out / "simclr-seed0" / "eval" / "by_class").glob("*/linear-v1.json")).read_text())
    assert [one["class"] for one in each["classes"]] == sorted(NAMES)


def _scores(rows: list[Row]) -> set[tuple[object, ...]]:
    return {(row.method, row.stem, row.encoder_sha256, row.score, str(row.record["spec"])) for row in rows}
