"""What a suite leaves to the images: sizes, budgets, few labels; and overrides that reach the suite or its recipes."""

from pathlib import Path

import pytest
import torch

from eval import fitting, suite
from eval.base import EvalData
from eval.fitting import Fit
from ssl_cls import config
from ssl_cls.data.arrays import Arrays
from ssl_cls.errors import UserError

ROOT = Path(__file__).parents[2]
OWN = str(ROOT / "recipes" / "suites" / "own.yaml")
FITS = (Fit(side=64, images=1000, up_to=96), Fit(side=128, images=500))


class Sized(Arrays):
    """n images without labels of differing sizes, of which only the sizes are asked for."""

    def __init__(self, n: int, side: int) -> None:
        super().__init__(
            "x/train", torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.full((n,), -1), None, (0.0,), (1.0,)
        )
        self.side, self.size = side, None

    def sizes(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self.side, 500]).expand(len(indices), 2)


@pytest.mark.parametrize(
    ("n", "side", "expected"),
    [
        (50, 96, ["data.size=64", "train.batch_size=4", "train.epochs=20"]),
        (2, 96, ["data.size=64", "train.batch_size=2", "train.epochs=200"]),  # no more than 200 passes
        (400, 97, ["data.size=128", "train.batch_size=32", "train.epochs=1.25"]),
        (9000, 300, ["data.size=128", "train.batch_size=256", "train.epochs=1"]),  # no image is left unseen
    ],
)
def test_size_batch_and_epochs_follow_the_images(n: int, side: int, expected: list[str]) -> None:
    recipe = config.load(ROOT / "recipes" / "own" / "simclr.yaml")
    assert fitting.changes(FITS, recipe, Sized(n, side)) == expected
    assert fitting.changes((), recipe, Sized(n, side)) == []


def test_a_supervised_recipe_needs_one_label_an_image() -> None:
    supervised = config.load(ROOT / "recipes" / "own" / "supervised.yaml")
    images = torch.zeros(4, 1, 1, 1, dtype=torch.uint8)
    one = Arrays("x", images, torch.tensor([0, 1, -1, 0]), ["a", "b"], (0.0,), (1.0,))
    several = Arrays("x", images, torch.zeros(4, 2), ["a", "b"], (0.0,), (1.0,))
    assert [fitting.teaches(supervised, source) for source in (one, several, Sized(4, 9))] == [True, False, False]
    assert fitting.teaches(config.load(ROOT / "recipes" / "own" / "byol.yaml"), Sized(4, 9))


@pytest.mark.parametrize(("n", "expected"), [(400, (50, 200)), (150, (50,)), (49, (49,)), (20, (20,)), (19, ())])
def test_few_labels_are_so_many_a_class_or_all_there_are(n: int, expected: tuple[int, ...]) -> None:
    images = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    train = Arrays("x", images[1:], torch.zeros(n - 1), [str(k) for k in range(10)], (0.0,), (1.0,))
    val = Arrays("x", images[:1], torch.zeros(1), train.class_names, (0.0,), (1.0,))
    assert fitting.label_counts((5, 20), EvalData("x", train, val, val, 10)) == expected


def test_overrides_go_to_the_suite_or_to_every_recipe() -> None:
    made = suite.load(OWN, ["seeds=[0, 1]", "few_label.draws=2", "data.path=/photos/My cats", "train.epochs=3"])
    assert made.seeds == (0, 1)
    assert made.few_label.draws == 2
    assert made.changes == ("data.path=/photos/My cats", "train.epochs=3")
    assert made.folder == Path("runs/own-My-cats")  # another folder of images, another folder of runs
    committed = str(ROOT / "recipes" / "suites" / "fashion_mnist.yaml")
    assert suite.load(committed).results
    assert suite.load(committed, ["train.epochs=1"]).results is None  # its rows are of other recipes


def test_a_mistyped_override_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="epochs"):
        list(suite.pretrainings(suite.load(OWN, ["data.path=x", "train.epoch=3"])))
    with pytest.raises(UserError, match="seeds"):
        suite.load(OWN, ["seeds=[x]"])
