"""Images without labels: groups that are there are found, and a report says what can and what cannot be known."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.report import unlabelled

ROOT = Path(__file__).parents[3]


def test_groups_that_are_there_are_found_the_largest_first() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100, generator=generator)]
    features = torch.eye(3)[truth] + 0.01 * torch.randn(100, 3, generator=generator)
    groups, distance, stable = unlabelled._clusters(features, 3)
    assert torch.equal(groups, truth)
    assert stable == pytest.approx(1.0)
    centre = features[truth == 0].mean(0)
    assert torch.allclose(distance[truth == 0], (features[truth == 0] - centre).norm(dim=1), atol=1e-4)


def test_features_without_groups_cluster_otherwise_each_time() -> None:
    noise = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    assert unlabelled._clusters(torch.nn.functional.normalize(noise, dim=1), 10)[2] < 0.5


RECIPE = """
name: {name}
data: {{source: folder, workers: 0}}
backbone: {{name: resnet_small, args: {{channels: [8, 16]}}, pooling: avg}}
method: {{name: {name}}}
optim: {{name: adamw, lr: 1e-3}}
train: {{epochs: 1, batch_size: 16}}
"""


@pytest.mark.slow
def test_a_suite_on_unlabelled_images_ends_in_a_report_that_says_what_to_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(80):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        size = tuple(rng.integers(20, 50, 2).tolist())
        Image.fromarray(pixels).resize(size).save(tmp_path / "pictures" / f"<b>{number}.png")
    (tmp_path / "own.yaml").write_text(
        "name: own\nrecipes: [simclr.yaml, supervised.yaml]\nfit: [{side: 32, images: 100}]\nlabels_per_class: [5]\n"
    )
    for name in ("simclr", "supervised"):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.format(name=name))
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    command = [sys.executable, "tools/suite.py", "own.yaml", "data.path=pictures"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"})
    assert done.returncode == 0, done.stderr
    assert "Accuracy cannot be known: no image here has a label." in done.stdout
    assert "simclr-seed0: healthy" in done.stdout
    out = tmp_path / "runs" / "own-pictures"
    assert not (out / "supervised-seed0").exists()  # nothing it could learn from
    page = (out / "index.html").read_text()
    assert "Accuracy cannot be known" in page
    assert "in 80 images of" in page  # every one once: val was not counted, and test twice
    assert "<b>" not in page.replace("<body>", "")
    with (out / "to_label.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all((tmp_path / "pictures" / row["path"]).is_file() and row["label"] == "" for row in rows)
