"""tools/doctor.py: a step that was not finite, once more."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIVERGING = """
name: tiny
data: {source: digits}
backbone: {name: vit_tiny_patch16_224, args: {patch_size: 7, embed_dim: 16, depth: 1, num_heads: 2}, pooling: avg}
method: {name: mae, decoder_dim: 8, decoder_depth: 1, decoder_heads: 2}
optim: {name: sgd, lr: 1.0e+30}
train: {epochs: 2, batch_size: 128}
run: {checkpoint_every_steps: 1, log_every_steps: 5}
"""

Tool = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_signals: None
) -> Tool:
    """`tool(name, *arguments)` -> exit status, output, errors; in this process, in a folder with the recipe."""
    (tmp_path / "tiny.yaml").write_text(DIVERGING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return run


def test_a_run_that_diverges_stops_in_words_and_its_step_is_replayed(tool: Tool) -> None:  # R10
    status, _, said = tool("pretrain.py", "tiny.yaml")
    assert status == 1
    assert "not finite in step" in said
    assert "doctor.py replay runs/tiny-seed0" in said
    assert "Traceback" not in said
    report = json.loads(Path("runs/tiny-seed0/nonfinite.json").read_text())
    status, out, _ = tool("doctor.py", "replay", "runs/tiny-seed0")
    assert status == 1
    assert f"not finite in step {report['step'] + 1}: it reproduces" in out
    assert "128 images" in out


def test_without_such_a_step_there_is_nothing_to_replay(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "runs" / "fine").mkdir(parents=True)
    status, _, said = tool("doctor.py", "replay", "runs/fine")
    assert status == 2
    assert "nothing to replay" in said
