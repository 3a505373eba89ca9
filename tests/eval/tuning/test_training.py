"""The loop of fine-tuning: what it does by default is frozen, for committed rows were made by it."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from eval.base import Encoder, Provenance
from eval.classifier import Classifier
from eval.tuning import strategies, training
from eval.tuning.training import Course, Training, train
from ssl_cls.augment.augment import Augment
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.clock import Clock, warmup_cosine
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.stream import Stream

VIT = BackboneConfig(
    "vit_tiny_patch16_224", "avg", {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2}
)
CNN = BackboneConfig("resnet_small", "avg2x2", {"channels": [8, 16]})
CPU = torch.device("cpu")


def encoder(config: BackboneConfig) -> Encoder:
    torch.manual_seed(0)
    network = build(config, 1, 12)
    return Encoder(network, 12, 1, (0.3,), (0.2,), "00", Provenance("x", "random", "", 0), Path("none"))


@pytest.fixture(scope="module")
def source() -> Arrays:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (40, 1, 12, 12), generator=generator).to(torch.uint8)
    return Arrays("noise/train", images, torch.arange(40) % 3, ["a", "b", "c"], (0.3,), (0.2,))


def run(config: BackboneConfig, source: Arrays, settings: Training, strategy: Any = "all", **more: Any) -> Classifier:
    return train(settings, encoder(config), source, 3, strategy, 3e-3, 12, 16, 7, CPU, **more)[0]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_by_default_it_is_finetune_v1_bit_for_bit(config: BackboneConfig, source: Arrays) -> None:
    """The loop of that version, written out: committed rows of it are compared with new ones."""
    stream = Stream(
        source,
        Augment(training.mild_views(12, 1), (0.3,), (0.2,)),
        seed=7,
        batch_size=16,
        device=CPU,
        needs_labels=True,
    )
    given = encoder(config).network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = copy.deepcopy(given).requires_grad_()
        head = nn.Linear(given.dim, 3)  # type: ignore[arg-type]
        model = nn.ModuleDict({"network": network, "head": head}).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, fused=True)
        for step, (batch,) in enumerate(stream.batches(0, 12)):
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(Clock(step, 12, 12), 3e-3, math.ceil(0.1 * 12), 0.0)
            images = batch.views["global"][0].contiguous(memory_format=torch.channels_last)
            logits = head(network.features(images))  # type: ignore[operator]
            assert batch.labels is not None
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    ours = state(run(config, source, Training()))
    assert ours.keys() == state(model).keys()
    for name, value in state(model).items():
        assert torch.equal(value, ours[name]), name


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_what_is_frozen_is_bit_identical_after_training(config: BackboneConfig, source: Arrays) -> None:
    before = state(encoder(config).network)
    head = state(run(config, source, Training(), "head").network)
    assert all(torch.equal(head[name], value) for name, value in before.items())  # batch-norm statistics too
    top = state(run(config, source, Training(), "top").network)
    moved = {name.split(".")[2] if "blocks" in name or "stages" in name else name for name in before
             if not torch.equal(top[name], before[name])}  # fmt: skip
    assert moved == ({"1", "model.norm.weight", "model.norm.bias"} if config is VIT else {"1"})
    deeper = state(run(config, source, Training(top_blocks=2), "top").network)
    assert {name for name in before if not torch.equal(deeper[name], before[name])} > {
        name for name in before if not torch.equal(top[name], before[name])
    }


def test_layer_decay_of_vit_b_is_the_paper_s() -> None:  # E15
    network = build(BackboneConfig("vit_base_patch16_224", "avg", {"embed_dim": 24, "num_heads": 2}), 3, 224)
    model = Classifier(network, 10, torch.zeros(1, 3, 224, 224))
    groups = strategies.groups(model, 0.05, 0.65)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scale[id(model.head.weight)] == scale[id(model.head.bias)] == 1.0
    assert scale[id(network_of(model).patch_embed.proj.weight)] == pytest.approx(0.65**13)
    assert scale[id(network_of(model).patch_embed.proj.weight)] == pytest.approx(0.0037, abs=5e-5)
    assert scale[id(network_of(model).blocks[11].mlp.fc2.weight)] == pytest.approx(0.65)
    assert len(scale) == len(list(model.parameters()))
    assert all((p.ndim > 1) == (group["weight_decay"] > 0) for group in groups for p in group["params"])


CHANGES = [
    {"loss": "bce"},
    {"label_smoothing": 0.0},
    {"optimizer": "sgd"},
    {"optimizer": "adam"},
    {"optimizer": "rmsprop"},
    {"optimizer": "lars"},
    {"weight_decay": 0.5},
    {"schedule": "step"},
    {"warmup": 0.5},
    {"layer_decay": 0.5},
    {"mixup": 0.5},
    {"cutmix": 0.5},
    {"erase": 1.0},
    {"dropout": 0.5},
    {"drop_path": 0.5},
    {"ema": 0.5},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "=".join(map(str, *change.items())))
def test_every_option_changes_what_is_trained(change: dict[str, Any], source: Arrays) -> None:
    plain, other = state(run(VIT, source, Training())), state(run(VIT, source, Training(**change)))
    assert not all(torch.equal(plain[name], other[name]) for name in plain)


def test_training_follows_the_decayed_rates(source: Arrays) -> None:  # E15
    """A first step of SGD without weight decay is as long as the rate."""
    start = Classifier(encoder(VIT).network, 3, torch.zeros(1, 1, 12, 12))
    groups = strategies.groups(start, 0.0, 0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    scale = {name: scales[id(parameter)] for name, parameter in start.named_parameters() if id(parameter) in scales}
    assert len(set(scale.values())) >= 3
    settings = {"optimizer": "sgd", "weight_decay": 0.0, "warmup": 0.0}
    fixed = "all", 3e-3, 1, 16, 7, CPU
    before = state(train(Training(**settings), encoder(VIT), source, 3, "all", 0.0, *fixed[2:])[0])
    plain = state(train(Training(**settings), encoder(VIT), source, 3, *fixed)[0])
    decayed = state(train(Training(**settings, layer_decay=0.5), encoder(VIT), source, 3, *fixed)[0])
    for name, factor in scale.items():
        moved = plain[name] - before[name]
        torch.testing.assert_close(decayed[name] - before[name], factor * moved, atol=1e-6, rtol=1e-2)
    assert any((plain[name] - before[name]).abs().max() > 1e-4 for name in scale)


def network_of(model: Classifier) -> Any:
    return model.network.model


def test_averaged_weights_are_timm_s(source: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """The average of every step's weights and batch-norm statistics, by its definition and by timm's class."""
    seen: list[dict[str, Tensor]] = []

    class Spy(ModelEmaV3):  # type: ignore[misc]
        def __init__(self, model: nn.Module, **settings: Any) -> None:
            seen.append(state(model))
            super().__init__(model, **settings)

        def update(self, model: nn.Module, step: int | None = None) -> None:
            seen.append(state(model))
            super().update(model, step)

    monkeypatch.setattr(training, "ModelEmaV3", Spy)
    averaged = state(run(CNN, source, Training(ema=0.8)))
    assert len(seen) == 13
    for name in ("network.model.conv1.weight", "head.bias", "network.model.bn1.running_mean"):
        expected = seen[0][name]
        for one in seen[1:]:
            expected = 0.8 * expected + 0.2 * one[name]
        torch.testing.assert_close(averaged[name], expected)
    plain = state(run(CNN, source, Training()))
    assert all(torch.equal(plain[name], value) for name, value in seen[-1].items())  # averaging changes no training


def test_drop_path_drops_in_training_alone_and_starts_from_the_same_weights(source: Arrays) -> None:
    without = replace_args(VIT, drop_path_rate=0.0)
    images = torch.rand(4, 1, 12, 12)
    network = encoder(without).network
    model = Classifier(network, 3, images, drop_path=0.5)
    with torch.no_grad():
        assert torch.equal(model.network.features(images), network.eval().features(images))  # type: ignore[operator]
        model.train()
        assert not torch.equal(model(images), model(images))
        model.eval()
        assert torch.equal(model(images), model(images))
    with pytest.raises(Exception, match="no drop path"):
        Classifier(encoder(CNN).network, 3, images, drop_path=0.5)


def replace_args(config: BackboneConfig, **args: Any) -> BackboneConfig:
    return replace(config, args={**(config.args or {}), **args})


def test_stopping_keeps_the_best_and_another_training_follows_the_course(source: Arrays) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    seen: list[dict[str, Tensor]] = []

    def held_loss(model: Classifier) -> float:
        assert not model.training
        seen.append(state(model))
        return next(losses)

    settings = Training(patience=3)
    best, course = train(
        settings, encoder(CNN), source, 3, "all", 3e-3, 40, 16, 7, CPU, held_loss=held_loss
    )  # fmt: skip
    assert course == Course(stop=4 / 40)  # looks every 2 steps; the second was the best, the fifth the last
    assert len(seen) == 5
    assert all(torch.equal(seen[1][name], value) for name, value in state(best).items())
    again, _ = train(settings, encoder(CNN), source, 3, "all", 3e-3, 40, 16, 7, CPU, course=course)
    assert all(torch.equal(seen[1][name], value) for name, value in state(again).items())


def test_a_plateau_s_drops_are_followed_too(source: Arrays) -> None:
    settings = Training(schedule="plateau", warmup=0.0)
    looked, course = train(
        settings, encoder(CNN), source, 3, "all", 3e-3, 20, 16, 7, CPU, held_loss=lambda model: 1.0
    )  # fmt: skip
    assert course == Course(1.0, (4 / 20, 8 / 20, 12 / 20, 16 / 20, 20 / 20))
    again, _ = train(settings, encoder(CNN), source, 3, "all", 3e-3, 20, 16, 7, CPU, course=course)
    assert all(torch.equal(state(looked)[name], value) for name, value in state(again).items())
    flat, _ = train(settings, encoder(CNN), source, 3, "all", 3e-3, 20, 16, 7, CPU)
    assert not torch.equal(flat.head.weight, again.head.weight)


def test_choice_follows_the_rule_unless_the_labels_say_otherwise() -> None:
    def chosen(labels: float, ridge: float, head: float, top: float, everything: float) -> str:
        return strategies.choose(labels, ridge, {"head": head, "top": top, "all": everything}, 100).strategy

    assert chosen(10, 80, 82, 83, 84) == "head"  # few labels, features that fit
    assert chosen(10, 70, 82, 83, 84) == "top"  # that do not
    assert chosen(500, 80, 84, 83, 82) == "all"
    assert chosen(10, 80, 70, 83, 84) == "all"  # by more than noise
    assert chosen(500, 90, 95, 83, 82) == "head"
    assert chosen(500, 90, 100, 100, 99) == "all"  # one image of a hundred, though an error by the formula were nought


def test_ridge_finds_what_is_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 8, generator=generator)
    y = (x @ torch.randn(8, 3, generator=generator)).argmax(1)
    assert strategies.ridge_accuracy(x[:90], y[:90], x[90:], y[90:]) > 70
    assert strategies.ridge_accuracy(x[:90], y[:90].flip(0), x[90:], y[90:]) < 65


def test_what_is_frozen_keeps_its_statistics_in_train_mode() -> None:
    model = Classifier(encoder(CNN).network, 3, torch.zeros(1, 1, 12, 12))
    strategies.freeze(model, "top", 1)
    strategies.train_mode(model)
    assert isinstance(model.network, Backbone)
    norms = {name: module.training for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name for name, training in norms.items() if training} == {name for name in norms if "stages.1" in name}
