"""What the report says is alike: the neighbours and the components that another library finds."""

import base64
import importlib.util
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from eval import encoders, features
from eval.base import Context, EvalData
from eval.comparison.record import Row
from eval.data import open_data
from eval.report import neighbourhood
from eval.report.gallery import Thumbnail
from eval.report.leakage import THRESHOLD
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError


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


def known(data: EvalData, bank: torch.Tensor, test: torch.Tensor) -> neighbourhood.Known:
    return neighbourhood.Known(data, bank, test, encoders.load("pixels", data, 0))


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
        neighbourhood.known("pixels", row, data, context)
    bank, test = (features.extract(encoder, source, context).numpy() for source in (data.train, data.test))
    picture = neighbourhood.neighbours("pixels", neighbourhood.known("pixels", row, data, context))

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


def test_the_most_alike_are_the_pairs_of_the_largest_centred_cosine(data: EvalData) -> None:
    generator = torch.Generator().manual_seed(0)
    bank, test = (torch.randn(len(source), 6, generator=generator) + 3 for source in (data.train, data.test))
    test[17] = bank[5] * 1.0
    picture = neighbourhood.closest("x", known(data, bank, test), None)
    about = bank.numpy().mean(0)
    oracle = NearestNeighbors(metric="cosine", algorithm="brute", n_neighbors=1).fit(bank.numpy() - about)
    distances, rows = (found[:, 0] for found in oracle.kneighbors(test.numpy() - about))
    order = np.argsort(distances)[:8]
    above, below = picture.strips
    assert [number(one) for one in above] == order.tolist()
    assert [number(one) for one in below] == rows[order].tolist()
    assert (number(above[0]), number(below[0])) == (17, 5)
    assert below[0].alt.endswith("cosine 1.0000")
    count = int((distances <= 1 - THRESHOLD).sum())
    assert count >= 1
    assert (
        f"{count} of {len(test)} test images have a cosine of 0.99 or more with one of {len(bank):,}" in picture.title
    )


def test_what_was_pretrained_on_is_compared_where_it_is_other_data(data: EvalData, tmp_path: Path) -> None:
    """Copies of test images among images that are no labelled training images are found by features too."""
    first = torch.arange(30)
    images = torch.cat((data.test.pixels(first), 255 - data.train.pixels(first)))[:, 0]
    np.savez(tmp_path / "seen.npz", images=images.numpy())
    (tmp_path / "recipe.yaml").write_text(
        f"name: x\ndata: {{source: folder, path: {tmp_path / 'seen.npz'}}}\nbackbone: {{name: resnet_small}}\n"
        "method: {name: simclr}\noptim: {lr: 0.001}\ntrain: {epochs: 1, batch_size: 2}\n"
    )
    context, encoder = Context(torch.device("cpu"), cache=tmp_path / "cache"), encoders.load("pixels", data, 0)
    bank, test = (features.extract(encoder, source, context) for source in (data.train, data.test))
    seen = neighbourhood.seen(encoder, tmp_path, context)
    assert seen is not None
    assert 20 < len(seen.features) == len(seen.source) < 60  # the others are held out
    picture = neighbourhood.closest("x", neighbourhood.Known(data, bank, test, encoder), seen)
    for one, its_copy in zip(*picture.strips, strict=True):
        assert number(one) < 30
        np.testing.assert_array_equal(decoded(one), decoded(its_copy))
    assert f"with one of {len(seen.source)} of {seen.source.name}" in picture.title
    assert neighbourhood.seen(encoder, tmp_path / "none", context) is None
    assert neighbourhood.seen(encoder, None, context) is None


def test_other_weights_than_the_row_s_are_not_shown(data: EvalData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the weights"):
        neighbourhood.known("pixels", pixels_row("other"), data, Context(torch.device("cpu"), cache=tmp_path))


def test_the_map_is_scikit_learn_s_pca(data: EvalData) -> None:
    """Up to the sign and the scale of each axis, point by point, class by class."""
    generator = torch.Generator().manual_seed(0)
    num = len(data.test)
    features = torch.randn(num, 20, generator=generator) * torch.linspace(3, 0.1, 20)
    drawn = neighbourhood.feature_map("x", known(data, features, features))
    labels = data.test.labels(torch.arange(num))
    oracle = PCA(2).fit(features.numpy())
    assert drawn.method == f"PCA, {100 * oracle.explained_variance_ratio_.sum():.0f} % of variance"
    expected = oracle.transform(features.numpy())
    for label, points in drawn.points.items():
        ours = np.asarray(points)
        assert ours.min() >= 0
        assert ours.max() <= 100
        theirs = expected[(labels == label).numpy()]
        for axis in range(2):
            assert abs(np.corrcoef(ours[:, axis], theirs[:, axis])[0, 1]) > 0.9999


def test_a_single_feature_still_has_a_map(data: EvalData) -> None:
    one = torch.arange(float(len(data.test)))[:, None]
    drawn = neighbourhood.feature_map("x", known(data, one, one))
    assert all(np.isfinite(points).all() for points in drawn.points.values())


def test_umap_is_drawn_where_it_is_installed(data: EvalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = known(data, torch.rand(5, 3), torch.rand(len(data.test), 3))
    assert (neighbourhood.umap("x", kept) is None) == (importlib.util.find_spec("umap") is None)
    (tmp_path / "umap.py").write_text(
        "class UMAP:\n"
        "    def __init__(self, random_state): assert random_state == 0\n"
        "    def fit_transform(self, x): return x[:, 1:3]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    drawn = neighbourhood.umap("x", kept)
    assert drawn is not None
    assert drawn.method == "UMAP"
    labels = data.test.labels(torch.arange(len(data.test)))
    first = kept.test[labels == 0][:, 1:3].numpy()
    for axis in range(2):
        assert np.corrcoef(np.asarray(drawn.points[0])[:, axis], first[:, axis])[0, 1] > 0.999
    monkeypatch.delitem(sys.modules, "umap")


def test_of_several_labels_neighbours_share_one_and_the_map_goes_by_the_most_frequent() -> None:
    labels = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1]])
    pixels = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    source = Arrays("x/test", pixels, labels, ["a", "b", "c"], (0.5,), (0.5,))
    features = torch.eye(5)[:, :4] + 0.1
    kept = known(EvalData("x", source, source, source, 3), features, features)
    first, second, third = neighbourhood.neighbours("x", kept).strips
    assert [strip[0].alt for strip in (first, second, third)] == [
        "test image 0: a", "test image 1: a, b", "test image 3: b, c"
    ]  # fmt: skip
    for query, *found in (first, second, third):
        for neighbour in found:
            shared = (labels[number(query)] * labels[number(neighbour)]).any()
            assert (neighbour.mark == "same") == bool(shared)
            assert neighbour.alt.endswith("no label") == (number(neighbour) == 2)
    drawn = neighbourhood.feature_map("x", kept)
    assert {label: len(points) for label, points in drawn.points.items()} == {0: 3, 1: 1}
