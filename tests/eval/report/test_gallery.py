"""The report's pictures are the images they claim to be."""

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eval.report import gallery
from eval.report.answers import Mistake
from eval.report.gallery import Thumbnail
from ssl_cls import checkpoint, config, plan
from ssl_cls.augment.augment import Augment, centre_boxes
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.rng import DrawKey

RECIPE = """
name: small
data: {source: digits}
backbone: {name: resnet_small}
method: {name: simclr}
optim: {name: adamw, lr: 0.001}
train: {epochs: 1, batch_size: 64}
"""
MAE = """
name: small
data: {source: digits}
backbone: {name: vit_tiny_patch16_224, args: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}}
method: {name: mae, decoder_dim: 16, decoder_depth: 1, decoder_heads: 2}
optim: {name: adamw, lr: 0.001}
train: {epochs: 1, batch_size: 64}
"""


def decoded(thumbnail: Thumbnail) -> np.ndarray:
    head, _, body = thumbnail.uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def test_views_are_those_of_the_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    picture = gallery.views("simclr", tmp_path)
    recipe = config.load(tmp_path / "recipe.yaml")
    source = catalog.open(recipe.data, "train")
    views = config.resolved(recipe, catalog.input_size(source), source.channels).views
    assert views is not None
    index = torch.arange(len(picture.strips[0]))
    drawn = Augment(views, source.mean, source.std).from_pixels(source.pixels(index), index, DrawKey(recipe.seed, 0))
    assert len(picture.strips) == 1 + len(drawn["global"])
    for i in index.tolist():
        np.testing.assert_array_equal(decoded(picture.strips[0][i]), source.pixels(index)[i, 0])
        for strip, view in zip(picture.strips[1:], drawn["global"], strict=True):
            expected = (view[i, 0] * source.std[0] + source.mean[0]) * 255
            np.testing.assert_allclose(decoded(strip[i]).astype(float), expected.clamp(0, 255), atol=0.51)


def test_reconstructions_show_the_view_where_patches_were_visible(tmp_path: Path) -> None:
    """Of a run with one checkpoint; a quarter of the patches is as it was, the others are the mean or the answer."""
    (tmp_path / "recipe.yaml").write_text(MAE)
    assert gallery.reconstructions("mae", tmp_path) is None  # nothing learnt yet
    recipe = config.load(tmp_path / "recipe.yaml")
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    method = plan.build_method(recipe, source, plan.make_plan(recipe, source, 1))
    checkpoint.save(tmp_path / "checkpoints", {"step": 3}, dict(method.state_dict()), {"x": torch.zeros(1)}, keep=1)
    picture = gallery.reconstructions("mae", tmp_path)
    assert picture is not None
    views, visible, answers = (np.stack([decoded(image) for image in strip]) for strip in picture.strips)
    same = (views == visible).reshape(len(views), 7, 4, 7, 4).all((2, 4))
    assert (same.sum((1, 2)) >= int(49 * 0.25)).all()
    shown = np.kron(same, np.ones((1, 4, 4))) > 0
    np.testing.assert_array_equal(answers[shown], views[shown])
    assert (answers[~shown] != visible[~shown]).mean() > 0.5


def test_reconstructions_of_files_are_of_what_evaluation_sees(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = generator.integers(0, 256, (5, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "run").mkdir()
    recipe_text = MAE.replace("{source: digits}", f"{{source: folder, path: {tmp_path}}}").replace(
        "batch_size: 64", "batch_size: 8"
    )
    (tmp_path / "run" / "recipe.yaml").write_text(recipe_text + "views: [{size: 28, scale: [0.2, 1.0]}]\n")
    recipe = config.load(tmp_path / "run" / "recipe.yaml")
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    method = plan.build_method(recipe, source, plan.make_plan(recipe, source, 1))
    checkpoint.save(tmp_path / "run/checkpoints", {"step": 3}, dict(method.state_dict()), {"x": torch.zeros(1)}, keep=1)
    picture = gallery.reconstructions("mae", tmp_path / "run")
    assert picture is not None
    shown, visible, answers = (np.stack([decoded(image) for image in strip]) for strip in picture.strips)
    index = torch.arange(len(shown))
    boxes = centre_boxes(source.sizes(index))
    expected = source.crops(index, [boxes], [28], "bilinear")[0].permute(0, 2, 3, 1).numpy()
    assert np.abs(shown.astype(int) - expected).max() <= 1
    same = (shown == visible).reshape(len(shown), 7, 4, 7, 4, 3).all((2, 4, 5))
    assert (same.sum((1, 2)) >= int(49 * 0.25)).all()
    assert (answers != visible).mean() > 0.3


def test_another_method_has_no_reconstructions(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert gallery.reconstructions("simclr", tmp_path) is None


def test_wrong_images_say_what_they_are_and_what_they_were_taken_for() -> None:
    test = catalog.open(DataConfig(source="digits"), "test")
    (image,) = gallery.wrong(test, [Mistake(7, true=3, taken_for=8, share=1.0)])
    assert image.mark == "3 → 8"
    np.testing.assert_array_equal(decoded(image), test.pixels(torch.tensor([7]))[0, 0])
    assert gallery.wrong(test, []) == []
