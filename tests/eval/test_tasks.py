"""Two classes and several labels an image, through every evaluator on frozen features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from eval.base import Context, Encoder, EvalData, Evaluator, Provenance
from eval.fewlabel import FewLabel
from eval.heads import fit
from eval.knn import KNN
from eval.linear import Linear, LinearLayers
from eval.linear_aug import LinearAug
from eval.ridge import Ridge
from eval.tasks import MANY_LABELS, ONE_CLASS, task_of
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.source import labelled

K = 3


class Flat(nn.Module):
    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _source(name: str, n: int, seed: int, binary: bool = False) -> Arrays:
    """One bright corner a label, and noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, K, generator=generator) < 0.3).float()
    images = torch.randint(0, 120, (n, 1, 4, 4), generator=generator)
    images.view(n, -1)[:, :K] += (110 * labels).long()
    own = labels[:, 0].long() if binary else labels
    names = ["no", "yes"] if binary else ["a", "b", "c"]
    return Arrays(f"corners/{name}", images.to(torch.uint8), own, names, (0.0,), (1.0,))


def _data(binary: bool = False) -> EvalData:
    parts = [_source(name, n, n, binary) for name, n in (("train", 300), ("val", 100), ("test", 200))]
    return EvalData("corners", *parts, 2 if binary else K)


def _run(evaluator: Evaluator, data: EvalData, folder: Path) -> list:  # type: ignore[type-arg]
    encoder = Encoder(Flat(), 4, 1, (0.0,), (1.0,), "00", Provenance("pixels", "pixels", "", 0), folder)
    return evaluator.run(encoder, data, Context(torch.device("cpu"), cache=folder / "cache"))


EVALUATORS = [
    KNN(),
    Linear(),
    LinearLayers(layers=(-1,), poolings=("own",)),
    Ridge(),
    LinearAug(epochs=20, batch_size=50),
    FewLabel(n_labels=(60,), draws=(0, 1)),
]


@pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda e: e.name)
def test_3_4_several_labels_are_judged_by_map(evaluator: Evaluator, tmp_path: Path) -> None:
    data = _data()
    prevalence = 100 * float(data.test.labels(torch.arange(200)).mean())
    for result in _run(evaluator, data, tmp_path):
        assert {"top1", "mAP", "macro_f1", "micro_f1"} <= set(result.metrics)
        assert result.metrics["mAP"] > prevalence + 25
        truth = data.test.labels(torch.arange(200))
        assert result.predictions.dtype == torch.float32
        right = truth.gather(1, result.predictions.argmax(1, keepdim=True))[:, 0]
        f1 = f1_score(truth, result.predictions > 0, average="micro", zero_division=0)
        assert result.metrics["micro_f1"] == pytest.approx(100 * f1, abs=1e-6)
        assert result.metrics["mAP"] == pytest.approx(
            100 * average_precision_score(truth, result.predictions, average="macro"), abs=0.05
        )
        assert result.metrics["top1"] == pytest.approx(100 * float(right.mean()))


@pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda e: e.name)
def test_two_classes_are_no_special_case(evaluator: Evaluator, tmp_path: Path) -> None:
    for result in _run(evaluator, _data(binary=True), tmp_path):
        assert result.metrics["top1"] > 80
        assert set(result.predictions.tolist()) == {0, 1}


def test_heads_for_several_labels_are_scikit_learns_for_each() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 8, generator=generator) * torch.logspace(-1, 1, 8)
    labels = (features[:, :K] + torch.randn(300, K, generator=generator) > 0.5).float()
    decays = torch.tensor([1e-1, 1e-3])
    heads = fit(features, labels, num_classes=K, weight_decay=decays, tolerance=1e-8)
    z = StandardScaler().fit_transform(features.double())
    for s, decay in enumerate(decays.tolist()):
        ours = heads.logits(features, s).sigmoid()
        for label in range(K):
            oracle = LogisticRegression(C=1 / (decay * 300), tol=1e-10, max_iter=10_000).fit(z, labels[:, label])
            np.testing.assert_allclose(ours[:, label], oracle.predict_proba(z)[:, 1], atol=3e-3)


def test_a_label_that_no_image_has_is_no_crash(tmp_path: Path) -> None:
    data = _data()
    for source in (data.train, data.val, data.test):
        source._labels[:, 1] = 0  # type: ignore[attr-defined]
    (result,) = _run(Linear(weight_decay=(1e-2,)), data, tmp_path)
    assert result.metrics["mAP"] > 50


def test_the_task_is_the_labels_shape() -> None:
    assert task_of(torch.zeros(3, dtype=torch.int64)) is ONE_CLASS
    assert task_of(torch.zeros(3, 4)) is MANY_LABELS
    truth = (torch.rand(50, K, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    scores = torch.randn(50, K, generator=torch.Generator().manual_seed(2))
    expected = 100 * average_precision_score(truth, scores, average="macro")
    assert MANY_LABELS.judge(scores, truth)[MANY_LABELS.score] == pytest.approx(expected, abs=1e-6)


def test_only_images_whose_label_is_known_are_judged() -> None:
    whole = _source("train", 30, 0, binary=True)
    assert labelled(whole) is whole
    whole._labels[:10] = -1
    part = labelled(whole)
    assert len(part) == 20
    assert torch.equal(part.pixels(torch.arange(20)), whole.pixels(torch.arange(10, 30)))
    several = _source("train", 30, 0)
    several._labels[3, 1] = -1
    assert len(labelled(several)) == 29
