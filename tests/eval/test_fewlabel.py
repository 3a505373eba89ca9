from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from eval.base import Context, Encoder, EvalData, Provenance
from eval.draws import folds, label_draw
from eval.fewlabel import FewLabel, cross_validate
from ssl_cls.data.arrays import Arrays
from ssl_cls.errors import UserError

CLASSES, SIDE = 4, 4


class Pixels(nn.Module):
    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _blobs(n: int, seed: int, noise: float = 60.0) -> tuple[Tensor, Tensor]:
    """One mean image a class, and Gaussian noise: uint8 [n, 1, SIDE, SIDE], int64 [n]."""
    means = 128 + 40 * torch.randn(CLASSES, SIDE * SIDE, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (n,), generator=generator)
    images = means[labels] + noise * torch.randn(n, SIDE * SIDE, generator=generator)
    return images.clamp(0, 255).to(torch.uint8).view(n, 1, SIDE, SIDE), labels


def _source(split: str, images: Tensor, labels: Tensor) -> Arrays:
    return Arrays(f"blobs/{split}", images, labels, [str(k) for k in range(CLASSES)], (0.5,), (0.3,))


def _data(noise: float = 60.0) -> EvalData:
    splits = {"train": _blobs(400, 1, noise), "val": _blobs(100, 2, noise), "test": _blobs(500, 3, noise)}
    return EvalData("blobs", *(_source(name, *split) for name, split in splits.items()), CLASSES)


def _encoder(out: Path) -> Encoder:
    return Encoder(Pixels(), SIDE, 1, (0.5,), (0.3,), "00", Provenance("pixels", "pixels", "", 0), out)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(torch.device("cpu"), cache=tmp_path / "features")


def test_cross_validation_is_scikit_learns() -> None:
    """Same folds, same standardisation, C = 1 / (weight_decay * n): the same held-out loss and heads."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 5, generator=generator) + labels[:, None]
    losses, heads = cross_validate(features, labels, 3)

    z, fold = StandardScaler().fit_transform(features.double()), folds(labels)
    for r, decay in ((1, 10**-2.5), (4, 0.1), (7, 10**0.5)):
        held = 0.0
        for k in range(5):
            kept = (fold != k).numpy()
            model = LogisticRegression(C=1 / (decay * kept.sum()), tol=1e-8, max_iter=5000)
            probability = model.fit(z[kept], labels[kept]).predict_proba(z[~kept])
            held += F.nll_loss(torch.tensor(probability).log(), labels[~kept], reduction="sum").item() / 60
        assert losses[r].item() == pytest.approx(held, rel=3e-3)
        everything = LogisticRegression(C=1 / (decay * 60), tol=1e-8, max_iter=5000).fit(z, labels)
        ours = heads.logits(features, r).softmax(1)
        assert (ours - torch.tensor(everything.predict_proba(z))).abs().max() < 1e-2


def test_rows_say_what_was_used(tmp_path: Path, context: Context) -> None:
    results = FewLabel(n_labels=(20, 60), draws=(0, 1)).run(_encoder(tmp_path), _data(), context)
    assert [(r.n_labels, r.draw) for r in results] == [(20, 0), (20, 1), (60, 0), (60, 1)]
    test_labels = _data().test.labels(torch.arange(500))
    for result in results:
        assert (result.evaluator, result.n_train, result.n_test) == ("fewlabel/v1", result.n_labels, 500)
        assert result.chosen_on == "cv5"
        top1 = 100 * (result.predictions == test_labels).double().mean().item()
        assert result.metrics["top1"] == pytest.approx(top1)
        chosen = [
            o["top1"] for o in result.optimism if o["settings"]["weight_decay"] == result.settings["weight_decay"]
        ]
        assert chosen == [pytest.approx(top1)]
    assert results[2].metrics["top1"] > results[0].metrics["top1"]


def test_a_share_of_the_labels_is_that_many_of_them(tmp_path: Path, context: Context) -> None:
    data, encoder = _data(), _encoder(tmp_path)
    everything = len(data.train) + len(data.val)
    assert 60 / everything < 1
    counted, shared = (FewLabel(n_labels=(n,), draws=(0, 1)).run(encoder, data, context) for n in (60, 60 / everything))
    for one, other in zip(counted, shared, strict=True):
        assert (one.n_labels, one.n_train) == (other.n_labels, other.n_train) == (60, 60)
        assert torch.equal(one.predictions, other.predictions)
    with pytest.raises(UserError, match="fewer than one for each"):
        FewLabel(n_labels=(1 / everything,)).run(encoder, data, context)


def test_only_the_drawn_labels_have_a_say(tmp_path: Path, context: Context) -> None:
    """Neither the other images and labels of train and val, nor any test label, change the head."""
    data, n = _data(), 40
    labels = torch.cat([data.train.labels(torch.arange(400)), data.val.labels(torch.arange(100))])
    drawn = label_draw(labels, CLASSES, n, 0)
    images = torch.cat([data.train.pixels(torch.arange(400)), data.val.pixels(torch.arange(100))])
    other = torch.ones(500, dtype=torch.bool)
    other[drawn] = False
    spoilt = torch.where(other[:, None, None, None], 255 - images, images)
    test_images, test_labels = data.test.pixels(torch.arange(500)), data.test.labels(torch.arange(500))
    hostile = EvalData(
        "blobs",
        _source("train", spoilt[:400], labels[:400]),
        _source("val", spoilt[400:], labels[400:]),
        _source("test", test_images, (test_labels + 1) % CLASSES),
        CLASSES,
    )
    evaluator = FewLabel(n_labels=(n,), draws=(0,))
    (honest,) = evaluator.run(_encoder(tmp_path), data, context)
    (attacked,) = evaluator.run(_encoder(tmp_path), hostile, context)
    assert attacked.predictions.equal(honest.predictions)
    assert attacked.settings == honest.settings
    assert attacked.metrics != honest.metrics


def test_labels_without_meaning_give_chance(tmp_path: Path, context: Context) -> None:
    data = _data(noise=2000.0)  # no clusters either, with which a few labels could agree by chance
    noise = torch.randint(0, CLASSES, (500,), generator=torch.Generator().manual_seed(5))
    train, val = data.train, data.val
    shuffled = replace(
        data,
        train=_source("train", train.pixels(torch.arange(400)), noise[:400]),
        val=_source("val", val.pixels(torch.arange(100)), noise[400:]),
    )
    results = FewLabel(n_labels=(100,), draws=(0, 1, 2)).run(_encoder(tmp_path), shuffled, context)
    mean = sum(r.metrics["top1"] for r in results) / 3
    assert mean == pytest.approx(100 / CLASSES, abs=5)
    strongest = max(o["settings"]["weight_decay"] for o in results[0].optimism)
    assert all(r.settings["weight_decay"] == strongest for r in results)


def test_one_label_a_class_is_judged_with_the_fixed_weight_decay(tmp_path: Path, context: Context) -> None:
    results = FewLabel(n_labels=(CLASSES, 2 * CLASSES), draws=(0,)).run(_encoder(tmp_path), _data(), context)
    assert [result.chosen_on for result in results] == ["fixed", "cv5"]
    assert results[0].settings == {"weight_decay": 0.1}
    assert results[0].metrics["top1"] > 100 / CLASSES
    with pytest.raises(UserError, match="fewer than one"):
        FewLabel(n_labels=(CLASSES - 1,)).run(_encoder(tmp_path), _data(), context)


def test_more_labels_than_there_are_is_refused(tmp_path: Path, context: Context) -> None:
    with pytest.raises(UserError, match="500 labelled"):
        FewLabel(n_labels=(100, 600)).run(_encoder(tmp_path), _data(), context)
