import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eval import encoders
from eval.base import Context, Encoder, EvalData, Provenance
from eval.classifier import Classifier
from eval.data import open_data
from eval.finetune import FineTune
from eval.overrides import evaluators
from eval.tuning.training import mild_views, train
from ssl_cls import export
from ssl_cls.augment.presets import supervised
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import RunError, UserError

CLASSES, SIDE, TEST = 3, 12, 150
RECIPE = """
name: bars
data: {source: digits}
backbone: {name: resnet_small, pooling: avg2x2, args: {channels: [8, 16]}}
method: {name: supervised}
optim: {name: adamw, lr: 1.0e-3}
train: {epochs: 1, batch_size: 64}
views: [{size: 12}]
"""
QUICK = FineTune(n_labels=30, learning_rates=(1e-2,), steps=20, batch_size=16)


def _bars(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A bright bar at one of three heights on noise: uint8 [n, 1, SIDE, SIDE], int64 [n]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = torch.randint(0, 120, (n, 1, SIDE, SIDE), generator=generator)
    for row in range(2):
        images[torch.arange(n), 0, 2 + 4 * labels + row] += 100
    return images.to(torch.uint8), labels


def _source(split: str, images: Tensor, labels: Tensor) -> Arrays:
    return Arrays(f"bars/{split}", images, labels, ["top", "middle", "bottom"], (0.3,), (0.2,))


def _data(test_shift: int = 0) -> EvalData:
    images, labels = _bars(TEST, 3)
    test = _source("test", images, (labels + test_shift) % CLASSES)
    return EvalData("bars", _source("train", *_bars(90, 1)), _source("val", *_bars(30, 2)), test, CLASSES)


def _backbone(seed: int) -> Backbone:
    torch.manual_seed(seed)
    return build(BackboneConfig("resnet_small", pooling="avg2x2", args={"channels": (8, 16)}), 1, SIDE)


def _encoder(network: nn.Module, out: Path) -> Encoder:
    return Encoder(network, SIDE, 1, (0.3,), (0.2,), "00", Provenance("random:resnet_small", "random", "", 0), out)


def _hash(network: nn.Module) -> str:
    digest = hashlib.sha256(repr([p.requires_grad for p in network.parameters()]).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(torch.device("cpu"), cache=tmp_path / "features")


def test_it_learns_and_leaves_the_encoder_alone(tmp_path: Path, context: Context) -> None:
    network = _backbone(0)
    before, random_state = _hash(network), torch.random.get_rng_state()
    (result,) = QUICK.run(_encoder(network, tmp_path), _data(), context)
    assert _hash(network) == before
    assert torch.random.get_rng_state().equal(random_state)
    assert result.metrics["top1"] > 90
    assert result.metrics["top1"] == pytest.approx(
        100 * (result.predictions == _bars(TEST, 3)[1]).double().mean().item()
    )
    assert (result.n_labels, result.draw, result.n_train, result.n_test) == (30, 0, 30, TEST)


def test_a_share_of_the_labels_is_that_many_of_them(tmp_path: Path, context: Context) -> None:
    data = _data()
    shared = replace(QUICK, n_labels=30 / (len(data.train) + len(data.val)))
    counted, other = (one.run(_encoder(_backbone(0), tmp_path), data, context)[0] for one in (QUICK, shared))
    assert (counted.n_labels, counted.metrics) == (other.n_labels, other.metrics) == (30, other.metrics)


def test_a_frozen_encoder_is_fine_tuned_like_any_other(tmp_path: Path, context: Context) -> None:
    brief = replace(QUICK, steps=6)
    (free,) = brief.run(_encoder(_backbone(0), tmp_path), _data(), context)
    (frozen,) = brief.run(_encoder(_backbone(0).requires_grad_(False).eval(), tmp_path), _data(), context)
    assert frozen.predictions.equal(free.predictions)


def test_same_seed_and_draw_same_predictions(tmp_path: Path, context: Context) -> None:
    evaluator = replace(QUICK, steps=6, draws=(0, 1))
    encoder = _encoder(_backbone(0), tmp_path)
    first = evaluator.run(encoder, _data(), context)
    torch.manual_seed(123)
    again = evaluator.run(encoder, _data(), context)
    assert [a.metrics for a in again] == [f.metrics for f in first]
    assert all(a.predictions.equal(f.predictions) for a, f in zip(again, first, strict=True))
    (alone,) = replace(evaluator, draws=(1,)).run(encoder, _data(), context)
    assert alone.metrics == first[1].metrics != first[0].metrics
    (other,) = replace(evaluator, draws=(0,)).run(encoder, _data(), replace(context, seed=1))
    assert other.metrics != first[0].metrics


def test_it_starts_from_the_encoder_and_moves_every_tensor(tmp_path: Path, context: Context) -> None:  # E14, E16
    """The copy is the encoder's in each weight, no fresh network's; the head is new; training reaches all."""
    network, fresh = _backbone(0), _backbone(1)
    for module in (network, fresh):
        for p in module.parameters():  # fresh norm layers are alike
            p.data += 0.1 * torch.randn_like(p)
    model = Classifier(network, CLASSES, torch.zeros(1, 1, SIDE, SIDE))
    for (name, got), given, other in zip(
        model.network.state_dict().items(),
        network.state_dict().values(),
        fresh.state_dict().values(),
        strict=True,
    ):
        assert got.equal(given)
        assert not got.is_floating_point() or "running" in name or not got.equal(other)
    assert {name for name, _ in model.named_parameters() if not name.startswith("network.")} == {
        "head.weight",
        "head.bias",
    }

    data = _data()
    trained, _ = train(QUICK, _encoder(network, tmp_path), data.train, CLASSES, "all", 1e-2, 20, 16, 0, context.device)
    assert not trained.training
    for (name, after), before in zip(trained.network.named_parameters(), network.parameters(), strict=True):
        assert not after.equal(before), name


def test_e16_loaded_weights_are_better_than_those_of_the_same_architecture_at_random(
    tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder that has learnt the bars, by way of a run directory, and what it began as: heads alone, few steps."""
    monkeypatch.chdir(tmp_path)
    data, network = _data(), _backbone(3)
    learnt, _ = train(QUICK, _encoder(network, tmp_path), data.train, CLASSES, "all", 1e-2, 60, 32, 0, context.device)
    assert isinstance(learnt.network, Backbone)
    come_from = {"run": "bars-seed3", "method": "supervised", "backbone": "resnet_small channels=(8, 16)", "seed": 3}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(RECIPE)
    export.save_encoder(
        learnt.network, tmp_path / "run" / "encoder", input_size=SIDE, mean=(0.3,), std=(0.2,), provenance=come_from
    )
    loaded, fresh = (encoders.load(f"{kind}{tmp_path / 'run'}", data, 3) for kind in ("", "random:"))
    same = zip(loaded.network.state_dict().items(), fresh.network.state_dict().values(), strict=True)
    assert not [name for (name, value), other in same if value.equal(other)]  # every tensor has moved
    head = replace(QUICK, strategy="head", n_labels=CLASSES * 5, steps=10)
    better, worse = (head.run(encoder, data, context)[0].metrics["top1"] for encoder in (loaded, fresh))
    assert better > 95
    assert better > worse + 20


def test_test_labels_choose_nothing(tmp_path: Path, context: Context) -> None:
    encoder = _encoder(_backbone(0), tmp_path)
    (honest,) = QUICK.run(encoder, _data(), context)
    (attacked,) = QUICK.run(encoder, _data(test_shift=1), context)
    assert attacked.predictions.equal(honest.predictions)
    assert attacked.settings == honest.settings
    assert attacked.metrics["top1"] < 10


def test_the_search_drops_a_hopeless_rate(tmp_path: Path, context: Context) -> None:
    evaluator = replace(QUICK, learning_rates=(1e-7, 1e-2, 1e-6))
    (result,) = evaluator.run(_encoder(_backbone(0), tmp_path), _data(), context)
    assert result.settings["learning_rate"] == 1e-2
    assert [o["settings"]["learning_rate"] for o in result.optimism] == [1e-7, 1e-2, 1e-6, 1e-2]
    assert max(o["top1"] for o in result.optimism) >= result.metrics["top1"]


def test_a_rate_that_ends_in_numbers_that_are_not_finite_is_not_chosen(tmp_path: Path, context: Context) -> None:
    evaluator = replace(QUICK, learning_rates=(1e30, 1e-2), optimizer="sgd")
    (result,) = evaluator.run(_encoder(_backbone(0), tmp_path), _data(), context)
    assert result.settings["learning_rate"] == 1e-2
    hopeless = replace(evaluator, learning_rates=(1e30,))
    with pytest.raises(RunError, match="not finite"):
        hopeless.run(_encoder(_backbone(0), tmp_path), _data(), context)


def test_pixels_have_nothing_to_tune(tmp_path: Path, context: Context, caplog: pytest.LogCaptureFixture) -> None:
    assert FineTune().run(_encoder(nn.Flatten(), tmp_path), _data(), context) == []
    assert "no weights to fine-tune" in caplog.text


def test_more_labels_than_there_are_is_refused(tmp_path: Path, context: Context) -> None:
    with pytest.raises(UserError, match="120 labelled"):
        FineTune(n_labels=600).run(_encoder(_backbone(0), tmp_path), _data(), context)


def test_one_label_a_class_leaves_nothing_to_choose_by(tmp_path: Path, context: Context) -> None:
    encoder, brief = _encoder(_backbone(0), tmp_path), replace(QUICK, n_labels=CLASSES, steps=4)
    (several,) = replace(brief, learning_rates=(1e-4, 1e-3, 1e-1)).run(encoder, _data(), context)
    assert (several.chosen_on, several.settings["learning_rate"], several.n_train) == ("fixed", 1e-3, CLASSES)
    assert len(several.optimism) == 1  # its own
    (asked,) = brief.run(encoder, _data(), context)
    assert asked.settings["learning_rate"] == 1e-2
    for looking in ({"strategy": "auto"}, {"patience": 3}):
        with pytest.raises(UserError, match="leave none to hold out"):
            replace(brief, **looking).run(encoder, _data(), context)  # type: ignore[arg-type]


def _several(split: str, n: int, seed: int) -> Arrays:
    """A bright bar at each height whose label the image has: float [n, 3]."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, CLASSES, generator=generator) < 0.4).float()
    images = torch.randint(0, 100, (n, 1, SIDE, SIDE), generator=generator)
    for row in range(2):
        images[:, 0, [2 + row, 6 + row, 10 + row]] += (130 * labels).long()[:, :, None]
    return Arrays(f"bars/{split}", images.to(torch.uint8), labels, ["top", "middle", "bottom"], (0.3,), (0.2,))


def test_several_labels_an_image_are_trained_by_bce_and_judged_by_map(tmp_path: Path, context: Context) -> None:
    sizes = (("train", 90), ("val", 30), ("test", TEST))
    data = EvalData("bars", *(_several(split, n, n) for split, n in sizes), CLASSES)
    encoder = _encoder(_backbone(0), tmp_path)
    evaluator = replace(QUICK, n_labels=60, learning_rates=(1e-6, 1e-2), mixup=0.1)
    (result,) = evaluator.run(encoder, data, context)
    truth = data.test.labels(torch.arange(TEST))
    assert result.metrics["mAP"] > 100 * float(truth.mean()) + 30
    assert {"top1", "macro_f1", "micro_f1", "cross_entropy"} <= set(result.metrics)
    assert result.metrics["top1"] == pytest.approx(
        100 * float(truth.gather(1, result.predictions.argmax(1, keepdim=True)).mean()), abs=1e-4
    )
    assert result.settings["learning_rate"] == 1e-2
    assert result.classifier is not None
    assert result.classifier.probabilities == "sigmoid"
    (other,) = replace(evaluator, loss="mse", steps=3).run(encoder, data, context)
    assert "cross_entropy" not in other.metrics
    with pytest.raises(UserError, match="several labels"):
        replace(evaluator, loss="focal").run(encoder, data, context)
    with pytest.raises(UserError, match="several labels"):
        replace(evaluator, strategy="auto").run(encoder, data, context)


def test_images_with_a_left_and_a_right_are_not_flipped() -> None:
    assert [view.flip for view in mild_views(28, 1)] == [0.0]
    assert mild_views(32, 3) == supervised(32, 3)
    assert mild_views(224, 1) == supervised(224, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"strategy": "head"},
        {"strategy": "top", "optimizer": "sgd", "schedule": "step"},
        {"loss": "bce", "optimizer": "adam", "schedule": "exponential", "erase": 1.0},
        {"loss": "mse", "optimizer": "rmsprop", "learning_rates": (1e-3,), "schedule": "polynomial", "dropout": 0.2},
        {"loss": "hinge", "mixup": 0.4, "cutmix": 1.0, "inference": "multi_crop"},
        {"loss": "focal", "layer_decay": 0.7, "ema": 0.5, "warmup": 0.0},
        {"optimizer": "lars", "learning_rates": (10.0,), "label_smoothing": 0.0},
    ],
    ids=lambda changed: "-".join(map(str, changed.values())),
)
def test_every_way_of_training_learns(changed: dict[str, Any], tmp_path: Path, context: Context) -> None:
    (result,) = replace(QUICK, **{"steps": 40, **changed}).run(_encoder(_backbone(0), tmp_path), _data(), context)
    assert result.metrics["top1"] > (55 if changed.get("strategy") == "head" else 75)
    assert {"mean_per_class", "macro_f1"} <= set(result.metrics)
    assert ("cross_entropy" in result.metrics) == (changed.get("loss", "ce") in ("ce", "focal"))
    assert result.classifier is not None
    assert result.classifier.class_names == ["top", "middle", "bottom"]


def test_all_labels_are_chosen_on_val_and_counted_in_epochs(tmp_path: Path, context: Context) -> None:
    evaluator = FineTune(n_labels="all", epochs=2, learning_rates=(1e-7, 1e-2), batch_size=16)
    (result,) = evaluator.run(_encoder(_backbone(0), tmp_path), _data(), context)
    assert (result.n_labels, result.draw, result.n_train, result.chosen_on) == (None, None, 120, "val")
    assert result.settings["steps"] == 2 * (120 // 16)
    assert result.settings["learning_rate"] == 1e-2


def test_early_stopping_and_plateaus_look_at_the_labels_never_at_test(tmp_path: Path, context: Context) -> None:
    encoder = _encoder(_backbone(0), tmp_path)
    stopping = replace(QUICK, steps=40, patience=3, learning_rates=(3e-2,), schedule="plateau", label_smoothing=0.0)
    (honest,) = stopping.run(encoder, _data(), context)
    (attacked,) = stopping.run(encoder, _data(test_shift=1), context)
    assert attacked.predictions.equal(honest.predictions)
    assert attacked.settings == honest.settings
    assert honest.chosen_on == "holdout"
    assert 0 < honest.settings["course"]["stop"] < 1


def test_auto_says_why_and_trains_what_it_chose(
    tmp_path: Path, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator = replace(QUICK, strategy="auto", steps=15)
    (result,) = evaluator.run(_encoder(_backbone(0), tmp_path), _data(), context)
    chosen = result.settings["strategy"]
    assert result.settings["why"] in caplog.text
    assert "few labels (10 a class)" in result.settings["why"]
    assert {entry["settings"]["strategy"] for entry in result.optimism} == {"head", "top", "all"}
    (alone,) = replace(evaluator, strategy=chosen).run(_encoder(_backbone(0), tmp_path), _data(), context)
    assert alone.predictions.equal(result.predictions)


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ("draws=[0,1]", "learning_rates=[]", "loss=l2", "n_labels=some", "label_smoothing=2", "dropot=0.1"):
        with pytest.raises(UserError, match=f"finetune.{wrong.split('=')[0]}"):
            evaluators(["finetune"], ["finetune.n_labels=all", f"finetune.{wrong}"])


@pytest.mark.slow
def test_training_from_scratch_is_no_broken_baseline(tmp_path: Path, context: Context) -> None:
    """The small CNN on 600 labels of Fashion-MNIST: against a weaker one pretraining would be flattered."""
    torch.manual_seed(0)
    network = build(BackboneConfig("resnet_small", pooling="avg2x2"), 1, 28)
    try:
        data = open_data(DataConfig("fashion_mnist"))
    except UserError as error:
        pytest.skip(f"no Fashion-MNIST here: {error}")
    encoder = replace(_encoder(network, tmp_path), input_size=28, mean=data.train.mean, std=data.train.std)
    (result,) = FineTune().run(encoder, data, context)
    assert result.metrics["top1"] >= 81
