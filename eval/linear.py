"""The linear probe: logistic regression on frozen features."""

from itertools import pairwise
from typing import Any, Literal

import torch

from eval import heads
from eval.base import Context, Encoder, EvalData, Result
from eval.classifier import Classifier, Trained
from eval.features import OWN, Cut, available, check_poolings, widths
from eval.frozen import frozen
from eval.inference import trained
from ssl_cls.backbone import Backbone
from ssl_cls.data.source import all_labels
from ssl_cls.spec import Positive, spec

_LOOKING_BACK = 1e-3  # of the loss: so far heads are refitted that were not chosen


@spec
class Linear:
    """A head on standardised features, its weight decay chosen on val, then refitted on train and val.

    Standardising is MAE's BatchNorm without scale and offset before the head (He et al. 2022, A.1). The head
    is the minimum of a convex problem: the learning rate, schedule and seed that probes are usually tuned by
    do not exist.
    """

    name: Literal["linear/v1"] = "linear/v1"
    weight_decay: tuple[Positive, ...] = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        return _probe(self.name, self.weight_decay, OWN, encoder, data, context)


@spec
class LinearLayers:
    """The linear probe, with layer and pooling of the features chosen on val as well, as DINOv2's is.

    Every layer (-1: the last) is tried with every pooling ("own": the encoder's), as far as the architecture has them.
    """

    name: Literal["linear_layers/v1"] = "linear_layers/v1"
    weight_decay: tuple[Positive, ...] = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
    layers: tuple[int, ...] = (-1, -2, -3, -4)
    poolings: tuple[str, ...] = ("own", "avg", "cls")

    def __post_init__(self) -> None:
        check_poolings(self.poolings)

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        """
        Raises:
            UserError: the architecture has none of these layers and poolings.
        """
        cuts = available(encoder, self.layers, self.poolings)
        return _probe(self.name, self.weight_decay, cuts, encoder, data, context)


def _probe(
    name: str,
    weight_decay: tuple[float, ...],
    cuts: tuple[Cut, ...],
    encoder: Encoder,
    data: EvalData,
    context: Context,
) -> list[Result]:
    """The best of every cut with every weight decay; those of one cut are fitted together.

    What was not chosen is only looked back at, so it is refitted less far than the answer is.
    """
    given = frozen(encoder, data, context, cuts)
    if given is None:
        return []
    train, val, both, test, task = given
    decay, sweep = torch.tensor(weight_decay), range(len(weight_decay))
    lengths = widths(encoder, cuts) if len(cuts) > 1 else [train.x.shape[1]]
    columns = [slice(*ends) for ends in pairwise(torch.tensor([0, *lengths]).cumsum(0).tolist())]

    on_val: dict[tuple[int, int], float] = {}
    fitted = []
    for cut, own in enumerate(columns):
        found = heads.fit(train.x[:, own], train.y, num_classes=data.num_classes, weight_decay=decay)
        on_val |= {(cut, s): task.judge(found.logits(val.x[:, own], s), val.y)[task.score] for s in sweep}
        fitted.append(found)
    best_cut, best = max(on_val, key=lambda setting: on_val[setting])

    on_test: dict[tuple[int, int], dict[str, float]] = {}
    for cut, own in enumerate(columns):
        tolerance = [heads.TOLERANCE if (cut, s) == (best_cut, best) else _LOOKING_BACK for s in sweep]
        fitted[cut] = heads.fit(
            both.x[:, own],
            both.y,
            num_classes=data.num_classes,
            weight_decay=decay,
            start=fitted[cut],
            tolerance=tolerance,
        )
        on_test |= {(cut, s): task.judge(fitted[cut].logits(test.x[:, own], s), test.y) for s in sweep}

    def setting(cut: int, s: int) -> dict[str, Any]:
        place = {"layer": cuts[cut].layer, "pooling": cuts[cut].pooling or "own"} if cuts != OWN else {}
        return {"weight_decay": weight_decay[s], **place}

    chosen = fitted[best_cut]
    return [
        Result(
            evaluator=name,
            settings=setting(best_cut, best),
            metrics=on_test[best_cut, best],
            n_train=len(both.y),
            n_test=len(test.y),
            predictions=task.answers(chosen.logits(test.x[:, columns[best_cut]], best), 0.0),
            chosen_on="val",
            optimism=[{"settings": setting(*tried), "top1": metrics["top1"]} for tried, metrics in on_test.items()],
            classifier=_classifier(chosen, best, encoder, data, context.device) if cuts[best_cut] == Cut() else None,
        )
    ]


def _classifier(
    fitted: heads.Heads, best: int, encoder: Encoder, data: EvalData, device: torch.device
) -> Trained | None:
    """None of raw pixels, which no network makes."""
    if not isinstance(encoder.network, Backbone):
        return None
    example = torch.zeros(1, encoder.channels, encoder.input_size, encoder.input_size, device=device)
    model = Classifier.of(encoder.network, fitted.weight[best].T, fitted.bias[best], example)
    return trained(model, encoder, data, "sigmoid" if all_labels(data.test).ndim == 2 else "softmax")
