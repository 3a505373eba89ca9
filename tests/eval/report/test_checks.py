"""What a report says of the data behind it: copies and unreadable files of a real folder, or that nobody looked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.comparison.compare import compare
from eval.comparison.rows import collect
from eval.report import checks

RECIPE = """
name: small
data: {{source: folder, path: {path}, max_bad_fraction: 0.5}}
backbone: {{name: resnet_small}}
method: {{name: simclr}}
optim: {{name: adamw, lr: 0.001}}
train: {{epochs: 1, batch_size: 4}}
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eight training and four test images of two classes; one of each split is the same, one file is broken."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for label in ("cat", "dog"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    pets = tmp_path / "pets"
    (pets / "test" / "dog" / "1.png").write_bytes((pets / "train" / "cat" / "2.png").read_bytes())
    (pets / "train" / "cat" / "9.png").write_bytes(b"not an image")
    return pets


def test_copies_and_unreadable_files_of_a_folder_are_named(
    images: Path, synthetic_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checks, "_CACHE", tmp_path / "cache")
    run = synthetic_run("simclr", "simclr", [{"evaluator": "knn/v1", "correct": [1, 1, 0, 1]}], dataset="pets")
    (run / "recipe.yaml").write_text(RECIPE.format(path=images))
    (found,) = checks.run(compare(collect([run])))
    cat, dog, sentence = found.sentences
    assert cat.startswith("class 'cat' has 7 labelled images, of which 2 are tested on")
    assert dog.startswith("class 'dog' has 7 labelled images, of which 2 are tested on")
    assert "of 4 test images, 1 are pixel for pixel among the 8 of pets/train, and 0 more" in sentence
    assert len(found.bad) == 1
    assert "cat/9.png" in found.bad[0]
    ((test, training),) = [picture.strips for picture in found.copies]
    assert test[0].uri == training[0].uri  # the same picture twice


def test_runs_that_saw_the_same_images_at_another_size_are_looked_at_once(
    images: Path, synthetic_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checks, "_CACHE", tmp_path / "cache")
    row = [{"evaluator": "knn/v1", "correct": [1, 1, 0, 1]}]
    runs = [synthetic_run(name, name, row, dataset="pets") for name in ("simclr", "byol")]
    for run, size in zip(runs, ("", ", size: 16, workers: 0"), strict=True):
        recipe = RECIPE.format(path=images).replace("max_bad_fraction: 0.5", f"max_bad_fraction: 0.5{size}")
        (run / "recipe.yaml").write_text(recipe)
    said: list[str] = []
    (found,) = checks.run(compare(collect(runs)), said.append)
    assert len(said) == 1
    assert sum(text.startswith("Leakage check") for text in found.sentences) == 1


def test_committed_rows_say_that_nobody_looked(synthetic_run: Callable[..., Path]) -> None:
    run = synthetic_run("simclr", "simclr", [{"evaluator": "knn/v1", "correct": [1, 1, 0, 1]}])
    (found,) = checks.run(compare(collect([run / "eval" / "results.jsonl"])))
    assert found.sentences == ["Leakage was not checked: no run directory here says what was pretrained on."]
