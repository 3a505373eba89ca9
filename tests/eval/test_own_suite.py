"""The shipped suite for own images, run as the README says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from eval.data import open_data
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import all_labels

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_folder_a_class_ends_in_a_report_that_answers(tmp_path: Path) -> None:
    digits = open_data(DataConfig("digits")).train
    labels = all_labels(digits)
    for label in (0, 1):
        (tmp_path / "my digits" / str(label)).mkdir(parents=True)
        for number, index in enumerate((labels == label).nonzero()[:60, 0].tolist()):
            pixels = digits.pixels(torch.tensor([index]))[0, 0].numpy()
            Image.fromarray(pixels).resize((32, 32)).save(tmp_path / "my digits" / str(label) / f"{number}.png")
    for name in ("tools", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [
        sys.executable, "tools/suite.py", "recipes/suites/own.yaml", "data.path=my digits", "data.size=32",
        "train.epochs=1", "train.batch_size=32", "few_label.draws=2", "fine_tune.steps=2", "data.workers=0",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"})
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "own-my-digits"
    page = (out / "index.html").read_text()
    for method in ("simclr", "byol", "supervised", "scratch", "pixels", "random"):
        assert method in done.stdout
        assert method in page
    assert "linear, 10 labels" in page  # five a class of two
    for name in ("simclr-seed0", "byol-seed0"):
        saved = json.loads((out / name / "encoder" / "config.json").read_text())
        assert saved["pretrained_cfg"]["crop_pct"] == 0.875  # as it was evaluated, so that timm shows images alike
