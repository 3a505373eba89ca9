"""A suite does everything once, on digits, end to end; committed rows stand in for runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eval import suite as suites
from eval.data import open_data
from eval.fewlabel import FewLabel
from eval.finetune import FineTune
from eval.suite import Suite, evaluators
from ssl_cls import config
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError

ROOT = Path(__file__).parents[2]
RECIPE = """
name: {name}
data: {{source: digits}}
backbone: {{name: resnet_small, args: {{channels: [8, 16]}}, pooling: avg}}
method: {{name: {name}}}
optim: {{name: adamw, lr: 1e-3}}
train: {{epochs: 1, batch_size: 128}}
"""
SUITE = """
name: small
recipes: [simclr.yaml optim.weight_decay=0.01, supervised.yaml]
seeds: [0]
few_label: {n_labels: [50], draws: 2}
fine_tune: {n_labels: [50], draws: 1, learning_rates: [1e-3], steps: 5}
results: results/small.jsonl
"""


def suite(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "suite.py"), "small.yaml", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "small.yaml").write_text(SUITE)
    for name in ("simclr", "supervised"):
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name))
    (folder / "tools").symlink_to(ROOT / "tools")
    first = suite(folder)
    assert first.returncode == 0, first.stderr
    return folder


@pytest.mark.slow
def test_every_row_of_the_table_is_made(done: Path) -> None:
    rows = [json.loads(line) for line in (done / "results" / "small.jsonl").read_text().splitlines()]
    made = {(row["method"], row["evaluator"], row["n_labels"]) for row in rows}
    frozen = {("knn/v1", None), ("linear/v1", None)}
    few = frozen | {("fewlabel/v1", 50)}
    assert {(e, n) for m, e, n in made if m == "pixels"} == few
    assert {(e, n) for m, e, n in made if m == "random"} == few | {("finetune/v1", 50)}
    assert {(e, n) for m, e, n in made if m == "simclr"} == few | {("finetune/v1", 50)}
    assert {(e, n) for m, e, n in made if m == "supervised"} == frozen  # a reference: its few-label cells stay empty
    assert {row["dataset"] for row in rows} == {"digits"}  # the pixels' too
    assert sum(row["evaluator"] == "fewlabel/v1" and row["method"] == "simclr" for row in rows) == 2
    report = done / "runs" / "small"
    assert (report / "index.html").exists()
    assert (done / "results" / "small.svg").read_bytes() == (report / "label_efficiency.svg").read_bytes()
    assert (done / "results" / "small.md").read_bytes() == (report / "comparison.md").read_bytes()


@pytest.mark.slow
def test_again_nothing_is_done_and_the_rows_are_the_same_bytes(done: Path) -> None:
    before = (done / "results" / "small.jsonl").read_bytes()
    again = suite(done)
    assert again.returncode == 0, again.stderr
    assert "pretraining" not in again.stderr
    assert before == (done / "results" / "small.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("without", [None, "spec"])  # of what was asked for, older rows do not tell
def test_committed_rows_stand_in_for_runs(done: Path, tmp_path: Path, without: str | None) -> None:
    for name in ("small.yaml", "simclr.yaml", "supervised.yaml"):
        (tmp_path / name).symlink_to(done / name)
    (tmp_path / "results").mkdir()
    rows = [json.loads(line) for line in (done / "results" / "small.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key != without} for row in rows]
    (tmp_path / "results" / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    listed = suite(tmp_path, "--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert "pretrain" not in listed.stderr
    assert "evaluate" not in listed.stderr


@pytest.mark.slow
def test_rows_of_another_recipe_do_not_stand_in_for_this_one_s(done: Path, tmp_path: Path) -> None:
    for name in ("small.yaml", "supervised.yaml"):
        (tmp_path / name).symlink_to(done / name)
    shutil.copytree(done / "results", tmp_path / "results")
    (tmp_path / "simclr.yaml").write_text((done / "simclr.yaml").read_text().replace("1e-3", "2e-3"))
    listed = suite(tmp_path, "--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert sorted(" ".join(line.split()) for line in listed.stderr.splitlines()) == [
        "evaluate runs/small/simclr-seed0: knn/v1, linear/v1, fewlabel/v1, finetune/v1",
        "pretrain runs/small/simclr-seed0",
        "results/small.jsonl: simclr-seed0 had another recipe, and is done anew",
    ]


@pytest.mark.slow
def test_of_a_run_only_what_has_no_rows_is_done(done: Path, tmp_path: Path) -> None:
    for name in ("small.yaml", "simclr.yaml", "supervised.yaml"):
        (tmp_path / name).symlink_to(done / name)
    rows = [json.loads(line) for line in (done / "results" / "small.jsonl").read_text().splitlines()]
    kept = [
        row
        for row in rows
        if (row["method"], row["evaluator"]) not in {("simclr", "finetune/v1"), ("pixels", "knn/v1")}
    ]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    listed = suite(tmp_path, "--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert sorted(" ".join(line.split()) for line in listed.stderr.splitlines()) == [
        "evaluate pixels: knn/v1",
        "evaluate runs/small/simclr-seed0: finetune/v1",
        "pretrain runs/small/simclr-seed0",
    ]


@pytest.mark.slow
def test_a_random_encoder_whose_rows_are_missing_needs_no_pretraining(done: Path, tmp_path: Path) -> None:
    for name in ("small.yaml", "simclr.yaml", "supervised.yaml", "tools"):
        (tmp_path / name).symlink_to(done / name)
    whole = (done / "results" / "small.jsonl").read_text()
    (tmp_path / "results").mkdir()
    kept = [line for line in whole.splitlines() if json.loads(line)["method"] != "random"]
    (tmp_path / "results" / "small.jsonl").write_text("\n".join(kept))
    again = suite(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "pretraining" not in again.stderr
    made = [json.loads(line) for line in (tmp_path / "results" / "small.jsonl").read_text().splitlines()]
    old = [json.loads(line) for line in whole.splitlines()]
    score = lambda row: (row["run"], row["evaluator"], row["draw"] or 0, row["metrics"]["top1"])  # noqa: E731
    assert sorted(map(score, made)) == sorted(map(score, old))


@pytest.mark.slow
def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("name: small\nrecipes: [a.yaml, b.yaml]\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.format(name="simclr"))
    refused = suite(tmp_path, "--dry-run")
    assert refused.returncode == 2
    assert "two recipes" in refused.stderr


def test_each_number_of_labels_has_its_draws(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    text = "name: s\nrecipes: [a.yaml]\nfew_label: {n_labels: [10, 60, 6000], draws: [5, 5, 1]}\n"
    path.write_text(text + "fine_tune: {n_labels: [10, all], draws: [5, 3], epochs: 2}\n")
    probes, few, tuned = evaluators(config.load_spec(Suite, path), open_data(DataConfig("digits")))
    assert [one.name for one in probes] == ["knn/v1", "linear/v1"]
    assert few == [FewLabel(n_labels=(10, 60), draws=(0, 1, 2, 3, 4)), FewLabel(n_labels=(6000,), draws=(0,))]
    assert tuned == [
        FineTune(n_labels=10, draws=(0, 1, 2, 3, 4)), FineTune(n_labels="all", draws=(0,), epochs=2.0)
    ]  # fmt: skip
    path.write_text(text.replace("[5, 5, 1]", "[5, 5]"))
    with pytest.raises(UserError, match="one for each of n_labels"):
        config.load_spec(Suite, path)
    config.load_spec(Suite, ROOT / "recipes" / "suites" / "label_efficiency.yaml")


def _suite(folder: Path, text: str = SUITE) -> str:
    (folder / "small.yaml").write_text(text)
    for name in ("simclr", "supervised"):
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name))
    return "small.yaml"


@pytest.mark.parametrize(
    ("override", "kept"),
    [("seeds=[0,1]", True), ("fine_tune.draws=2", False), ("few_label.draws=3", False), ("train.epochs=2", False)],
)
def test_committed_rows_do_not_stand_in_for_other_evaluations(
    override: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (suites.load(_suite(tmp_path), [override]).results is not None) == kept


def test_one_recipe_file_twice_needs_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "name: s\nrecipes: [simclr.yaml, simclr.yaml train.epochs=2{}]\n"
    with pytest.raises(UserError, match="two recipes"):
        list(suites.pretrainings(suites.load(_suite(tmp_path, text.format("")))))
    assert len(list(suites.pretrainings(suites.load(_suite(tmp_path, text.format(" name=longer")))))) == 2


def test_a_changed_suite_is_told_to_take_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs' places follow from its name: run.dir is not for the user to give."""
    monkeypatch.chdir(tmp_path)
    path = _suite(tmp_path)
    first = next(suites.pretrainings(suites.load(path)))
    first.run.open()
    with pytest.raises(UserError, match=r"epochs: 1.0 -> 2.0") as refused:
        next(suites.pretrainings(suites.load(path, ["train.epochs=2"]))).check()
    assert "name=" in refused.value.fix
    next(suites.pretrainings(suites.load(path, ["train.epochs=2", "name=other"]))).check()


def test_backbones_of_one_name_and_other_arguments_have_random_encoders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = open_data(DataConfig("digits"))

    def names(text: str) -> list[str]:
        loaded = suites.load(_suite(tmp_path, text))
        asked = suites.judgements(loaded, list(suites.pretrainings(loaded)), data)
        return [one.out.name for one in asked if one.encoder.startswith("random:")]

    assert names(SUITE) == ["random-resnet_small-seed0"]
    text = SUITE.replace("supervised.yaml", '"supervised.yaml backbone.args.channels=[8,24]"')
    assert names(text) == ["random-resnet_small-simclr-seed0", "random-resnet_small-supervised-seed0"]
    for other in ("backbone.pooling=avg2x2", "data.size=32"):  # before anything is trained that has no table
        with pytest.raises(UserError, match="one backbone"):
            names(SUITE.replace("supervised.yaml", f'"supervised.yaml {other}"'))
