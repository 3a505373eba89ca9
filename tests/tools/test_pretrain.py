"""tools/pretrain.py as a person uses it: a run, the same command again, a changed recipe, a dry run, and bad input."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TINY = """
name: tiny
seed: 1
data: {source: digits}
backbone: {name: vit_tiny_patch16_224, args: {patch_size: 7, embed_dim: 16, depth: 1, num_heads: 2}, pooling: avg}
method: {name: mae, decoder_dim: 8, decoder_depth: 1, decoder_heads: 2}
optim: {name: adamw, lr: 1e-3}
train: {epochs: 2, batch_size: 128}
run: {checkpoint_every_steps: 4, log_every_steps: 2}
"""


def pretrain(folder: Path, *arguments: str, recipe: str = TINY) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.yaml").write_text(recipe)
    command = [sys.executable, str(ROOT / "tools" / "pretrain.py"), "tiny.yaml", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    done = pretrain(folder)
    assert done.returncode == 0, done.stderr
    (folder / "screen.txt").write_text(done.stdout)
    return folder


def test_a_run_ends_with_a_verdict_on_screen_in_the_log_and_beside_its_encoder(finished: Path) -> None:
    run = finished / "runs" / "tiny-seed1"
    saved = json.loads((run / "encoder" / "provenance.json").read_text())["health"]
    assert saved["state"] == "healthy"
    assert "effective_rank" in saved["reason"]
    said = f"healthy: {saved['reason']}"
    assert said in (run / "log.txt").read_text()
    assert said in (finished / "screen.txt").read_text()


def test_a_run_leaves_what_the_contract_says(finished: Path) -> None:
    run = finished / "runs" / "tiny-seed1"
    assert {path.name for path in run.iterdir()} >= {
        "recipe.yaml",
        "metrics.jsonl",
        "timing.jsonl",
        "checkpoints",
        "encoder",
        "log.txt",
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == list(range(2, losses[-1]["step"] + 1, 2))
    assert all(row["samples"] == row["step"] * 128 for row in losses)
    assert all(row["embedding_std"] > 0 and row["effective_rank"] >= 1 for row in losses)
    assert sum("val_knn_top1" in row for row in rows) == 2
    assert losses[-1]["loss"] < losses[0]["loss"]


def test_the_encoder_loads_into_timm_with_the_trained_weights(finished: Path) -> None:
    run = finished / "runs" / "tiny-seed1"
    model = timm.create_model(f"local-dir:{run / 'encoder'}", pretrained=True, num_classes=0)
    newest = max((run / "checkpoints").iterdir())
    trained = load_file(newest / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained[f"backbone.model.{name}"]), name


def test_the_same_command_again_says_that_it_is_finished(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*") if path.is_file()}
    again = pretrain(finished)
    assert again.returncode == 0
    assert "finished" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_changed_recipe_is_refused_with_the_difference(finished: Path, dry: list[str]) -> None:
    changed = pretrain(finished, "optim.lr=0.002", *dry)
    assert changed.returncode == 2
    assert "optim.lr: 0.001 -> 0.002" in changed.stderr
    assert "Traceback" not in changed.stderr


def test_where_it_runs_is_not_part_of_a_run(finished: Path) -> None:
    assert pretrain(finished, "run.log_every_steps=5", "health.stop=true", "data.workers=2").returncode == 0


def test_the_saved_recipe_is_the_run(finished: Path) -> None:
    run = finished / "runs" / "tiny-seed1"
    again = pretrain(finished, recipe=(run / "recipe.yaml").read_text())
    assert again.returncode == 0, again.stderr
    assert "finished" in again.stdout


def test_a_dry_run_tells_everything_and_writes_nothing(tmp_path: Path) -> None:
    done = pretrain(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    for word in ("scale:", "digits", "global batch", "steps", "learning rate", "eta", "memory"):
        assert word in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["optim.lrr=1"], "lr"),
        (["optim.lr=-1"], "optim.lr"),
        (["train.epochs=0"], "train.epochs"),
        (["train.batch_size=fast"], "train.batch_size"),
        (["train.batch_size=100000"], "batch"),
        (["backbone.name=vit_tinny_patch16_224"], "vit_tiny_patch16_224"),
        (["backbone.args.patch_size=5"], "patch"),
        (["backbone.args=null"], "16-pixel patches"),  # the architecture's own
        (["backbone.name=vit_tiny_patch16_224.foo"], "Invalid pretrained tag"),
        (["method.mask_ratio=0.99"], "mask_ratio"),
        (["data.source=folder"], "path"),
        (["data.source=folder", "data.path=nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_screen_and_exit_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], overrides: list[str], says: str
) -> None:
    """In this process: a process of its own for each would spend its time on imports."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "tiny.yaml", *overrides])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "pretrain.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert says in said
    assert "Traceback" not in said
    assert len(said.splitlines()) < 25
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_help_needs_no_torch(tool: str) -> None:
    code = f"import sys, runpy; sys.argv = ['{tool}', '--help']; sys.modules['torch'] = None; "
    code += f"runpy.run_path('{ROOT / 'tools' / tool}', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
