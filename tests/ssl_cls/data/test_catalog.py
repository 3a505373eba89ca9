"""What a recipe may say of its data, and which augmentation is wrong for them."""

from itertools import combinations
from pathlib import Path

import pytest
from test_own import pictures

from eval.data import cautions, open_data, overridden
from ssl_cls import config
from ssl_cls.augment.view import View
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig, fitting, unfit
from ssl_cls.errors import UserError

RECIPE = """
name: x
data: {source: digits}
backbone: {name: resnet_small}
method: {name: simclr}
optim: {name: adamw, lr: 1e-3}
train: {epochs: 1, batch_size: 8}
"""
FLIPPED = (View(count=2, size=28, flip=0.5), View(kind="local", size=12, flip=0.1))


def load(tmp_path: Path, *overrides: str) -> config.Recipe:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return config.load(tmp_path / "r.yaml", overrides)


@pytest.mark.parametrize("name", ["digits", "mnist", "kmnist", "emnist_letters", "svhn", "svhn_extra"])
def test_digits_and_letters_are_not_flipped_unless_a_recipe_says_so(name: str, tmp_path: Path) -> None:
    recipe = load(tmp_path, f"data.source={name}")
    resolved = config.resolved(recipe, 28, 1)
    assert [view.flip for view in resolved.views or ()] == [0.0]
    assert unfit(name, resolved.views or ()) == ""
    assert [view.flip for view in fitting(f"{name}/train", FLIPPED)] == [0.0, 0.0]
    assert f"a mirrored image of {name}" in unfit(name, FLIPPED)
    written = config.resolved(load(tmp_path, f"data.source={name}", "views=[{count: 2, flip: 0.5}]"), 28, 1)
    assert [view.flip for view in written.views or ()] == [0.5]  # what a person writes is kept, with a warning


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "sign_language_mnist", "folder", "photos"])
def test_other_images_are(name: str) -> None:
    assert fitting(name, FLIPPED) == FLIPPED
    assert unfit(name, FLIPPED) == ""


WRONG = {
    "data.source=cifar-10": "data.source: must be one of fashion_mnist, digits, mnist,",
    "data.source=fashon_mnist": "did you mean fashion_mnist?",
    "data={source: mnist, labels: l.csv}": "data.labels: is for your own images: source: folder",
    "data={source: folder, window: [5, 5]}": "data.window: must be [low, high] with low < high, not [5",
    "data={source: folder, window: [1]}": "data.window",
    'data={source: folder, labels: ""}': "data.labels: must not be empty",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_data_are_refused_before_anything_is_touched(override: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load(tmp_path, override)
    assert WRONG[override] in refused.value.where


def test_labels_and_window_make_another_run(tmp_path: Path) -> None:
    overrides = ["data={source: folder}", "data={source: folder, labels: a}", "data={source: folder, window: [0, 9]}"]
    recipes = [load(tmp_path, override) for override in overrides]
    assert all(config.diff(one, other) for one, other in combinations(recipes, 2))
    (tmp_path / "again.yaml").write_text(config.dump(recipes[2]))
    assert config.load(tmp_path / "again.yaml") == recipes[2]


def test_evaluation_sees_the_labelled_images_and_says_which_classes_are_small(tmp_path: Path) -> None:
    content = list(pictures(tmp_path / "images", 100))
    rows = [f"{path},{'eel' if number < 10 else 'cat'}" for number, path in enumerate(content[:60])]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    told = overridden(
        DataConfig(),
        ["data.source=folder", f"data.path={tmp_path / 'images'}", f"data.labels={tmp_path / 'labels.csv'}"],
    )
    assert len(catalog.open(told, "train")) == 83
    data = open_data(told)
    assert [len(source) for source in (data.train, data.val, data.test)] == [43, 5, 12]
    assert cautions(data) == [
        "class 'eel' has 10 labelled images, of which 2 are tested on: fewer than 20 say little about it"
    ]
    assert data.name == "images"
