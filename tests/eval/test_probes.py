"""Probes beside linear/v1: any layer and pooling, ridge regression, and the classical one with augmentation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from eval.base import Context, Encoder, EvalData, Provenance
from eval.data import open_data
from eval.features import OWN, Cut, extract, widths
from eval.knn import KNN
from eval.linear import Linear, LinearLayers, available
from eval.linear_aug import LinearAug
from eval.ridge import Ridge, solve
from ssl_cls import export
from ssl_cls.augment.view import View
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import Subset
from ssl_cls.errors import UserError

VIT = BackboneConfig("vit_tiny_patch16_224", args={"patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2})
CNN = BackboneConfig("resnet_small", pooling="avg2x2", args={"channels": (8, 16)})


@pytest.fixture(scope="module")
def data() -> EvalData:
    whole = open_data(DataConfig("digits"))
    few = Subset(whole.train, torch.arange(500), "digits/train")
    return replace(whole, train=few)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(torch.device("cpu"), cache=tmp_path / "cache")


def _encoder(config: BackboneConfig, out: Path, size: int = 8) -> Encoder:
    torch.manual_seed(0)
    network = build(config, 1, size).eval()
    come_from = Provenance("x", "random", config.label, 0)
    return Encoder(network, size, 1, (0.3,), (0.4,), export.sha256(network.model), come_from, out)


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_every_layer_is_what_the_modules_give(config: BackboneConfig) -> None:
    torch.manual_seed(0)
    network = build(config, 1, 8).eval()
    model, images = network.model, torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(network.features(images, (-1,)), network.pool(model.forward_features(images)))  # type: ignore[operator]
        if config is VIT:
            assert network.num_layers == 3
            x = model.norm_pre(model._pos_embed(model.patch_embed(images)))  # type: ignore[operator]
            own = [model.norm(x := block(x)) for block in model.blocks]  # type: ignore[operator, union-attr]
            assert torch.equal(network.features(images, (-2, -1), "cls"), torch.cat((own[-2][:, 0], own[-1][:, 0]), 1))
            assert torch.equal(network.features(images, (-3,), "avg"), own[0][:, 1:].mean(1))
        else:
            first = model.stages[0](F.relu(model.bn1(model.conv1(images))))  # type: ignore[operator, index]
            assert torch.equal(network.features(images, (-2,), "avg"), F.adaptive_avg_pool2d(first, 1).flatten(1))
    assert not any(module._forward_hooks for module in network.modules())


def test_several_cuts_are_one_file_side_by_side(data: EvalData, context: Context, tmp_path: Path) -> None:
    encoder = _encoder(VIT, tmp_path)
    cuts = available(encoder, (-1, -2, -9), ("own", "avg", "cls"))
    assert cuts == (Cut(-1), Cut(-1, "cls"), Cut(-2), Cut(-2, "cls"))  # its own is avg, and it has three layers
    together = extract(encoder, data.test, context, cuts)
    ends = np.cumsum([0, *widths(encoder, cuts)])
    for number, cut in enumerate(cuts):
        alone = extract(encoder, data.test, context, (cut,))
        assert torch.equal(together[:, ends[number] : ends[number + 1]], alone)
    assert torch.equal(extract(encoder, data.test, context, (Cut(-1),)), extract(encoder, data.test, context))


def test_cuts_that_no_encoder_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the layers"):
        available(_encoder(CNN, tmp_path), (-9,), ("own",))
    with pytest.raises(UserError, match="none of the layers"):
        available(_encoder(CNN, tmp_path), (-1,), ("cls",))
    with pytest.raises(ValueError, match="pooling must be"):
        LinearLayers(poolings=("mean",))
    pixels = Encoder(nn.Identity(), 8, 1, (0.0,), (1.0,), "pixels", Provenance("pixels", "pixels", "", 0), tmp_path)
    assert available(pixels, (-1, -2), ("own", "avg")) == OWN


def test_the_layer_is_chosen_on_val_and_is_no_worse_there(data: EvalData, context: Context, tmp_path: Path) -> None:
    encoder = _encoder(VIT, tmp_path)
    decays = (1e-3, 1e-1)
    (plain,) = Linear(weight_decay=decays).run(encoder, data, context)
    (searched,) = LinearLayers(weight_decay=decays).run(encoder, data, context)
    assert {"layer", "pooling", "weight_decay"} == set(searched.settings)
    assert len(searched.optimism) == 3 * 2 * 2  # layers, poolings (own is avg), weight decays
    tops = {tuple(one["settings"].values()): one["top1"] for one in searched.optimism}
    assert searched.metrics["top1"] == tops[tuple(searched.settings.values())]
    for one in plain.optimism:
        # what was not chosen is solved less far: here an image or two
        assert tops[one["settings"]["weight_decay"], -1, "own"] == pytest.approx(one["top1"], abs=0.6)
    assert 100 * float((searched.predictions == data.test.labels(torch.arange(len(data.test)))).float().mean()) == (
        pytest.approx(searched.metrics["top1"], abs=1e-3)
    )


def test_ridge_is_scikit_learns(data: EvalData, context: Context, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 30, generator=generator) * torch.logspace(-2, 2, 30) + 5
    targets = F.one_hot(torch.randint(0, 4, (200,), generator=generator), 4).float()
    penalties = (1e-3, 1e-1, 10.0)
    heads = solve(features, targets, penalties)
    z = StandardScaler().fit_transform(features.double())
    for s, penalty in enumerate(penalties):
        oracle = SklearnRidge(alpha=penalty * 200).fit(z, targets.double())
        np.testing.assert_allclose(heads.logits(features, s), oracle.predict(z), atol=2e-4)
    few = solve(features[:10], targets[:10], (1e-2,))  # fewer samples than features
    assert torch.isfinite(few.weight).all()
    (result,) = Ridge().run(_encoder(CNN, tmp_path), data, context)
    assert result.metrics["top1"] > 50


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_classical_probe_learns_and_e9_leaves_the_encoder_and_e13_repeats_itself(
    batch_norm: bool, data: EvalData, context: Context, tmp_path: Path
) -> None:
    encoder = _encoder(CNN, tmp_path)
    probe = LinearAug(epochs=10, batch_size=64, learning_rates=(1e-6, 3.0), batch_norm=batch_norm)
    (once,), (again,) = probe.run(encoder, data, context), probe.run(encoder, data, context)
    assert export.sha256(encoder.network.model) == encoder.sha256  # type: ignore[arg-type]
    assert not any(p.grad is not None for p in encoder.network.parameters())
    assert torch.equal(once.predictions, again.predictions)
    assert once.metrics == again.metrics
    assert once.metrics["top1"] > 50
    assert once.n_train == len(data.train)
    assert once.settings["learning_rate"] == 3.0
    tops = {(x["settings"]["learning_rate"], x["settings"]["epoch"]): x["top1"] for x in once.optimism}
    assert tops.keys() == {(rate, epoch) for rate in (1e-6, 3.0) for epoch in range(1, 11)}
    assert tops[3.0, 10] == pytest.approx(once.metrics["top1"])
    assert len({top for (rate, _), top in tops.items() if rate == 3.0}) > 5  # epochs differ
    unseen = probe.train(encoder, data, context)  # nobody looks
    features = extract(encoder, data.test, context)
    assert torch.equal(unseen[1](features).argmax(1), once.predictions)  # looking changes nothing


def test_e12_linear_is_no_less_than_two_points_below_knn(data: EvalData, context: Context, tmp_path: Path) -> None:
    encoder = _encoder(CNN, tmp_path)
    (knn,), (linear,) = KNN().run(encoder, data, context), Linear().run(encoder, data, context)
    assert linear.metrics["top1"] >= knn.metrics["top1"] - 2


class Sides(nn.Module):
    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_the_classical_probe_shows_each_image_anew(data: EvalData, context: Context, tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watching(Sides):
        def features(self, images: Tensor) -> Tensor:
            seen.append(images.clone())
            return super().features(images)

    encoder = replace(_encoder(CNN, tmp_path), network=Watching())
    LinearAug(epochs=2, batch_size=500, learning_rates=(0.1,)).train(encoder, data, context)
    assert len(seen) == 2
    assert isinstance(_encoder(CNN, tmp_path).network, Backbone)
    assert not torch.equal(seen[0].sort(0).values, seen[1].sort(0).values)


@pytest.mark.parametrize(("name", "flip"), [("svhn/train", 0.0), ("cifar10/train", 0.5)])
def test_the_classical_probe_flips_no_digits(
    name: str, flip: float, data: EvalData, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colour images of digits have a left and a right too."""

    class SeenError(Exception):
        pass

    def augment(views: tuple[View, ...], *_: object) -> None:
        assert [view.flip for view in views] == [flip]
        raise SeenError

    monkeypatch.setattr("eval.linear_aug.Augment", augment)
    encoder = replace(_encoder(CNN, tmp_path), channels=3)
    named = replace(data, train=Subset(data.train, torch.arange(9), name))
    with pytest.raises(SeenError):
        LinearAug().train(encoder, named, context)
