import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from eval.base import Context, Encoder, EvalData, Provenance
from eval.heads import fit
from eval.linear import Linear
from eval.metrics import accuracy
from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.data.arrays import Arrays


def _blobs(n: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    means = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    scale = torch.logspace(-2, 2, dim)  # features of very different sizes, and far from zero
    return (means[labels] + 1.5 * torch.randn(n, dim, generator=generator)) * scale + 5 * scale, labels


@pytest.mark.parametrize(("n", "dim"), [(400, 12), (60, 90)])
@pytest.mark.parametrize("weighted", [False, True])
def test_heads_are_scikit_learns(n: int, dim: int, weighted: bool) -> None:
    features, labels = _blobs(n, dim, 4, 0)
    decays = torch.tensor([1e-1, 1e-2, 1e-3])
    weights = torch.rand(3, n, generator=torch.Generator().manual_seed(1)) if weighted else torch.ones(3, n)
    weights[:, ::7] = 0 if weighted else 1
    heads = fit(
        features,
        labels,
        num_classes=4,
        weight_decay=decays,
        sample_weight=weights if weighted else None,
        tolerance=1e-7,
    )
    z = StandardScaler().fit_transform(features.double())
    for s, decay in enumerate(decays.tolist()):
        oracle = LogisticRegression(C=1 / (decay * float(weights[s].sum())), tol=1e-10, max_iter=10_000)
        oracle.fit(z, labels, sample_weight=weights[s].numpy())
        np.testing.assert_allclose(heads.logits(features, s).softmax(1), oracle.predict_proba(z), atol=3e-3)


def test_each_head_is_its_own_problem() -> None:
    features, labels = _blobs(200, 10, 3, 2)
    decays = torch.tensor([1e-1, 1e-2, 1e-3])
    together = fit(features, labels, num_classes=3, weight_decay=decays, tolerance=1e-7)
    for s in range(3):
        alone = fit(features, labels, num_classes=3, weight_decay=decays[s : s + 1], tolerance=1e-7)
        torch.testing.assert_close(together.logits(features, s), alone.logits(features, 0), atol=5e-3, rtol=1e-3)


def test_each_head_is_solved_as_far_as_it_is_asked_for() -> None:
    features, labels = _blobs(300, 20, 3, 2)
    decays = torch.tensor([1e-3, 1e-3, 1e-3])
    found = fit(features, labels, num_classes=3, weight_decay=decays, tolerance=[1e-1, 1e-7, 1e-1])
    exact = fit(features, labels, num_classes=3, weight_decay=decays[:1], tolerance=1e-7)
    torch.testing.assert_close(found.logits(features, 1), exact.logits(features, 0), atol=5e-3, rtol=1e-3)
    assert (found.weight[0] - exact.weight[0]).abs().max() > 0.01
    torch.testing.assert_close(found.weight[0], found.weight[2], atol=1e-3, rtol=1e-3)


def test_a_warm_start_changes_the_way_and_not_the_answer() -> None:
    features, labels = _blobs(300, 20, 3, 3)
    decays = torch.tensor([1e-2])
    part = fit(features[:200], labels[:200], num_classes=3, weight_decay=decays)
    warm = fit(features, labels, num_classes=3, weight_decay=decays, start=part, tolerance=1e-7)
    cold = fit(features, labels, num_classes=3, weight_decay=decays, tolerance=1e-7)
    torch.testing.assert_close(warm.logits(features, 0), cold.logits(features, 0), atol=5e-3, rtol=1e-3)


def test_units_and_constants_of_features_do_not_matter() -> None:
    features, labels = _blobs(200, 10, 3, 4)
    other = torch.cat((features * torch.logspace(-3, 3, 10) - 1, torch.full((200, 2), 7.0)), 1)
    a = fit(features, labels, num_classes=3, weight_decay=torch.tensor([1e-2]), tolerance=1e-7)
    b = fit(other, labels, num_classes=3, weight_decay=torch.tensor([1e-2]), tolerance=1e-7)
    torch.testing.assert_close(a.logits(features, 0), b.logits(other, 0), atol=1e-2, rtol=1e-3)


def test_e10_separable_features_are_separated() -> None:
    labels = torch.arange(1600) % 10
    features = torch.randn(1600, 512, generator=torch.Generator().manual_seed(0))
    features[torch.arange(1600), labels] += 12
    heads = fit(features[:1200], labels[:1200], num_classes=10, weight_decay=torch.tensor([1e-3]))
    for part in (slice(0, 1200), slice(1200, None)):
        assert accuracy(heads.logits(features[part], 0), labels[part])["top1"] == 100


def test_e10_random_labels_are_learnt_by_heart_and_teach_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3000, 2048, generator=generator)
    labels = torch.randint(0, 10, (3000,), generator=generator)
    heads = fit(features[:1000], labels[:1000], num_classes=10, weight_decay=torch.tensor([1e-4]))
    assert accuracy(heads.logits(features[:1000], 0), labels[:1000])["top1"] == 100
    assert abs(accuracy(heads.logits(features[1000:], 0), labels[1000:])["top1"] - 10) < 3 * (10 * 90 / 2000) ** 0.5


def test_constant_features_give_the_class_shares() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    heads = fit(torch.ones(40, 3), labels, num_classes=2, weight_decay=torch.tensor([1e-2]), tolerance=1e-9)
    torch.testing.assert_close(
        heads.logits(torch.ones(1, 3), 0).softmax(1), torch.tensor([[0.75, 0.25]]), atol=1e-3, rtol=0
    )


class Flat(nn.Module):
    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)  # type: ignore[no-any-return]


def _digits_data(test_labels: Tensor | None = None) -> EvalData:
    x, y = _digits()
    images, labels = torch.tensor(x * 15.9375).to(torch.uint8).view(-1, 1, 8, 8), torch.tensor(y)
    if test_labels is not None:
        labels = torch.cat((labels[:1400], test_labels))
    names = [str(c) for c in range(10)]
    cuts = {"train": slice(0, 1200), "val": slice(1200, 1400), "test": slice(1400, None)}
    sources = [Arrays(f"digits/{name}", images[cut], labels[cut], names, (0.0,), (1.0,)) for name, cut in cuts.items()]
    return EvalData("digits", *sources, 10)


def _encoder(network: nn.Module, size: int, out: Path) -> Encoder:
    return Encoder(network, size, 1, (0.0,), (1.0,), "00", Provenance("pixels", "pixels", "", 0), out)


def test_linear_is_within_a_fifth_of_a_point_of_scikit_learns_tuned_the_same_way(tmp_path: Path) -> None:
    data = _digits_data()
    (result,) = Linear().run(_encoder(Flat(), 8, tmp_path), data, Context(torch.device("cpu"), cache=tmp_path))
    x, y = _digits()

    def scored(decay: float, train: slice, held: slice) -> float:
        scaler = StandardScaler().fit(x[train])
        oracle = LogisticRegression(C=1 / (decay * len(x[train])), max_iter=5000).fit(
            scaler.transform(x[train]), y[train]
        )
        return 100 * float(oracle.score(scaler.transform(x[held]), y[held]))

    best = max(Linear().weight_decay, key=lambda decay: scored(decay, slice(0, 1200), slice(1200, 1400)))
    oracle = scored(best, slice(0, 1400), slice(1400, None))
    assert abs(result.metrics["top1"] - oracle) <= 0.26  # one image of the 397 is 0.25
    assert result.n_train == 1400
    assert result.n_test == 397


def test_no_test_label_chooses_the_weight_decay(tmp_path: Path) -> None:
    context = Context(torch.device("cpu"), cache=tmp_path)
    (honest,) = Linear().run(_encoder(Flat(), 8, tmp_path), _digits_data(), context)
    (blind,) = Linear().run(_encoder(Flat(), 8, tmp_path), _digits_data(torch.arange(397) % 10), context)
    assert honest.settings == blind.settings
    assert torch.equal(honest.predictions, blind.predictions)
    assert blind.metrics["top1"] < 20
    assert max(e["top1"] for e in honest.optimism) >= honest.metrics["top1"]
    assert honest.metrics["top1"] in [e["top1"] for e in honest.optimism]


def test_e9_x14_a_probe_leaves_the_backbone_as_it_was_and_e13_repeats_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build(BackboneConfig("resnet_small", args={"channels": (4, 8)}), 1, 8).train()
    before = _digest(backbone)
    rows = [
        Linear().run(
            _encoder(backbone, 8, tmp_path),
            _digits_data(),
            Context(torch.device("cpu"), cache=tmp_path / name),
        )[0]
        for name in ("once", "again")
    ]
    assert _digest(backbone) == before
    assert backbone.training
    assert torch.equal(rows[0].predictions, rows[1].predictions)
    assert rows[0].metrics == rows[1].metrics


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()
