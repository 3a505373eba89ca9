"""Which parts of a classifier are trained, how fast each of them, and which strategy suits data and labels."""

import math
from typing import Any, Literal, NamedTuple

import torch
from timm.optim import Lars
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from eval.classifier import Classifier

Strategy = Literal["head", "top", "all"]
OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop", "lars"]

FEW = 50  # labels a class, below which data count as few
SIMILAR = 0.9  # a ridge probe's share of the best strategy's accuracy, from which the features count as fitting

_MOMENTUM = 0.9


def freeze(model: Classifier, strategy: Strategy, top_blocks: int) -> None:
    """Leave trainable the head and, of the network, nothing (head), the last blocks (top) or everything (all)."""
    if strategy == "all":
        return
    model.network.requires_grad_(False)
    if strategy == "top":
        layers: dict[str, int] = model.network.layers()  # type: ignore[operator]
        first = max(layers.values()) - top_blocks + 1
        for name, parameter in model.network.model.named_parameters():  # type: ignore[union-attr]
            parameter.requires_grad_(layers[name] >= first)


def train_mode(model: Classifier) -> None:
    """What is frozen stays in eval mode: its batch norms keep their statistics, and it drops nothing."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def groups(model: Classifier, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels alone, as everywhere; `lr_scale` falls from 1 for the head by
    `layer_decay` a layer (He et al. 2022, A.2; Clark et al. 2020)."""
    scales: dict[str, float] = {}
    if layer_decay < 1:
        scales = {f"network.model.{name}": x for name, x in model.network.layer_scales(layer_decay).items()}  # type: ignore[operator]
    found: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault((parameter.ndim > 1, scales.get(name, 1.0)), []).append(parameter)
    return [
        {"params": found[kind], "weight_decay": weight_decay * kind[0], "lr_scale": kind[1]}
        for kind in sorted(found, key=lambda kind: (not kind[0], kind[1]))
    ]


def optimizer(name: OptimizerName, groups: list[dict[str, Any]]) -> Optimizer:
    """Over `groups`; rates are written before each step. LARS adapts matrices alone, whatever their decay."""
    match name:
        case "adamw":
            return AdamW(groups, fused=True)
        case "adam":
            return Adam(groups, fused=True)
        case "sgd":
            return SGD(groups, lr=0.0, momentum=_MOMENTUM, fused=True)
        case "rmsprop":
            return RMSprop(groups, lr=0.0, momentum=_MOMENTUM)
        case "lars":
            adapting = [{**group, "always_adapt": group["params"][0].ndim > 1} for group in groups]
            return Lars(adapting, lr=0.0, momentum=_MOMENTUM)  # type: ignore[no-any-return]


class Choice(NamedTuple):
    strategy: Strategy
    why: str


def choose(labels_a_class: float, ridge: float, scores: dict[Strategy, float], num_held: int) -> Choice:
    """What `auto` does, from held-out accuracies in percent over `num_held` images.

    The usual rule: few labels and features that fit, the head; few and features that do not, the top as well;
    many labels, everything. It gives way where another strategy is better by more than a standard error.
    """
    few, best = labels_a_class < FEW, max(scores, key=lambda strategy: scores[strategy])
    similar = ridge >= SIMILAR * scores[best]
    usual: Strategy = ("head" if similar else "top") if few else "all"
    n = num_held + 4  # two right, two wrong: an error where all is right, too (Agresti & Coull 1998)
    share = (scores[best] / 100 * num_held + 2) / n
    error = 100 * math.sqrt(share * (1 - share) / n)
    chosen = usual if scores[usual] >= scores[best] - error else best
    told = ", ".join(f"{strategy} {score:.1f}" for strategy, score in scores.items())
    why = (
        f"{'few' if few else 'many'} labels ({labels_a_class:.0f} a class), features that "
        f"{'fit' if similar else 'do not fit'} (ridge {ridge:.1f}, best {scores[best]:.1f}): usually {usual}; "
        f"held out: {told} (standard error {error:.1f})"
    )
    return Choice(chosen, why)


def ridge_accuracy(train: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor) -> float:
    """Percent of `held` [M, D] that a ridge classifier on standardised `train` [N, D] gets right.

    Its penalty is the best of seven by leave-one-out on `train`, in closed form.
    """
    from sklearn.linear_model import RidgeClassifierCV  # here: importing it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), RidgeClassifierCV(torch.logspace(-2, 4, 7).numpy()))
    probe.fit(train.numpy(), labels.numpy())
    return 100 * float((probe.predict(held.numpy()) == held_labels.numpy()).mean())
