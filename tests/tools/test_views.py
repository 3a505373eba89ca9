"""tools/views.py as a person uses it: SimCLR's views, MAE's mask and reconstruction, and bad input."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_cls import checkpoint, config, plan
from ssl_cls.data import catalog

TOOL = Path(__file__).parents[2] / "tools" / "views.py"
SIMCLR = """
name: tiny
data: {source: digits}
backbone: {name: resnet_small}
method: {name: simclr}
optim: {name: adamw, lr: 1e-3}
train: {epochs: 1, batch_size: 64}
"""
MAE = SIMCLR.replace(
    "resnet_small", "vit_tiny_patch16_224, args: {patch_size: 7, embed_dim: 16, depth: 1, num_heads: 2}"
).replace("simclr", "mae, decoder_dim: 8, decoder_depth: 1, decoder_heads: 2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simclr.yaml").write_text(SIMCLR)
    (tmp_path / "mae.yaml").write_text(MAE)
    return tmp_path


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_views", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def status(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["views.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        tool.main()
    return int(ended.value.code or 0)


def picture(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_picture_is_a_function_of_recipe_and_seed(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for out, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        assert status(tool, monkeypatch, "simclr.yaml", f"seed={seed}", "--out", out, "--count", "3", "--run", ".") == 0
    assert np.array_equal(picture("a.png"), picture("b.png"))
    assert not np.array_equal(picture("a.png"), picture("c.png"))


def test_mae_shows_the_mask_and_after_training_the_reconstruction(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, torch.Tensor]] = []
    draw = tool.draw
    monkeypatch.setattr(tool, "draw", lambda columns, *rest: (drawn.append(columns), draw(columns, *rest)))
    assert status(tool, monkeypatch, "mae.yaml", "--count", "4") == 0

    source = catalog.open(config.load("mae.yaml").data, "train")
    recipe = config.resolved(config.load("mae.yaml"), catalog.input_size(source), source.channels)
    method = plan.build_method(recipe, source, plan.make_plan(recipe, source, 1))
    checkpoint.save(Path("runs/tiny-seed0/checkpoints"), {"step": 7}, method.state_dict(), {}, keep=1)
    assert status(tool, monkeypatch, "mae.yaml", "--count", "4") == 0

    untrained, trained = drawn
    assert [title.split("\n")[0] for title in untrained] == ["original", "global view 1", "visible"]
    assert list(trained) == [*untrained, "reconstruction, step 7\npatch mean and std given"]
    _, view, visible, answer = trained.values()
    patches = [x.unfold(2, 7, 7).unfold(3, 7, 7).flatten(4) for x in (view, visible, answer)]  # [B, 1, 4, 4, 49]
    seen = ((patches[0] - patches[1]).abs() < 1e-5).all(4)
    assert (seen.flatten(1).sum(1) >= 4).all()
    hidden = ~seen
    mean = patches[1][hidden].mean()
    torch.testing.assert_close(patches[1][hidden], mean.expand_as(patches[1][hidden]))
    torch.testing.assert_close(patches[2][seen], patches[0][seen])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("simclr.yaml", "--count", "0"), "--count"),
        (("simclr.yaml", "--out", "views.jpg"), "--out"),
        (("simclr.yaml", "--out", "nowhere/views.png"), "--out"),
        (("mae.yaml", "--run", "other"), "--run"),
        (("absent.yaml",), "absent.yaml"),
    ],
)
def test_bad_input_is_one_screen_and_status_2(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    named: str,
) -> None:
    checkpoint.save(Path("other/checkpoints"), {"step": 7}, {"x": torch.zeros(1)}, {}, keep=1)
    assert status(tool, monkeypatch, *arguments) == 2
    screen = capsys.readouterr().err
    assert named in screen
    assert "Traceback" not in screen


def test_help_does_not_wait_for_torch() -> None:
    script = f"""
import runpy, sys
sys.argv = ["views.py", "--help"]
try:
    runpy.run_path({str(TOOL)!r}, run_name="__main__")
except SystemExit as ended:
    assert not ended.code
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
