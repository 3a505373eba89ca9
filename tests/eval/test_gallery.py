"""The report's pictures: the images they claim to be, and the neighbours that another library finds."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from eval import encoders, features, gallery
from eval.base import Context, EvalData
from eval.data import open_data
from eval.gallery import Thumbnail
from eval.record import Row
from ssl_cls import config
from ssl_cls.augment.augment import Augment
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey

RECIPE = """
name: small
data: {source: digits}
backbone: {name: resnet_small}
method: {name: simclr}
optim: {name: adamw, lr: 0.001}
train: {epochs: 1, batch_size: 64}
"""


@pytest.fixture(scope="module")
def data() -> EvalData:
    return open_data(DataConfig(source="digits"))


def decoded(thumbnail: Thumbnail) -> np.ndarray:
    head, _, body = thumbnail.uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def number(thumbnail: Thumbnail) -> int:
    found = re.search(r"image (\d+)", thumbnail.alt)
    assert found
    return int(found.group(1))


def pixels_row(sha256: str) -> Row:
    empty = {
        "run": "pixels",
        "method": "pixels",
        "backbone": "",
        "seed": 0,
        "images_seen": 0,
        "view_forwards": 0,
    }
    scored = {
        "evaluator": "knn/v1",
        "dataset": "digits",
        "n_labels": None,
        "draw": None,
        "n_train": 1,
        "n_test": 1,
    }
    rest = {"top1": 0.0, "seconds": None, "correct": None, "where": "", "folder": None, "record": {}}
    return Row(encoder_sha256=sha256, **empty, **scored, **rest)


def test_neighbours_are_scikit_learn_s(data: EvalData, tmp_path: Path) -> None:
    context, encoder = Context(torch.device("cpu"), cache=tmp_path), encoders.load("pixels", data, 0)
    row = pixels_row(encoder.sha256)
    with pytest.raises(UserError, match="no longer kept"):
        gallery.neighbours("pixels", "pixels", row, data, context)
    bank, test = (features.extract(encoder, source, context).numpy() for source in (data.train, data.test))
    picture = gallery.neighbours("pixels", "pixels", row, data, context)

    oracle = NearestNeighbors(metric="cosine", algorithm="brute").fit(bank)
    labels, test_labels = (x.labels(torch.arange(len(x))).tolist() for x in (data.train, data.test))
    assert [test_labels[number(query)] for query, *_ in picture.strips] == list(range(8))
    for query, *found in picture.strips:
        assert test_labels.index(test_labels[number(query)]) == number(query)  # the first of its class, not chosen
        distances, _ = oracle.kneighbors(test[[number(query)]], n_neighbors=len(found))
        ours = [
            1
            - bank[number(x)]
            @ test[number(query)]
            / np.linalg.norm(bank[number(x)])
            / np.linalg.norm(test[number(query)])
            for x in found
        ]
        np.testing.assert_allclose(ours, distances[0], atol=1e-5)
        for neighbour in found:
            assert (neighbour.mark == "same") == (labels[number(neighbour)] == test_labels[number(query)])
            np.testing.assert_array_equal(
                decoded(neighbour), data.train.pixels(torch.tensor([number(neighbour)]))[0, 0]
            )
        np.testing.assert_array_equal(decoded(query), data.test.pixels(torch.tensor([number(query)]))[0, 0])


def test_other_weights_than_the_row_s_are_not_shown(data: EvalData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the weights"):
        gallery.neighbours("pixels", "pixels", pixels_row("other"), data, Context(torch.device("cpu"), cache=tmp_path))


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
