"""The linear probe: logistic regression on frozen features."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from eval import heads
from eval.base import Context, Encoder, EvalData, Result
from eval.features import OWN, Cut, extract, widths
from eval.tasks import Task, task_of
from ssl_cls.backbone import Backbone
from ssl_cls.data.source import all_labels
from ssl_cls.errors import UserError
from ssl_cls.spec import Positive, spec


@spec
class Linear:
    """A head on standardised features, its weight decay chosen on val, then refitted on train and val.

    Standardising is MAE's BatchNorm without scale and offset before the head (He et al. 2022, A.1). The head
    is the minimum of a convex problem: the learning rate, schedule and seed that probes are usually tuned by
    do not exist.

    Which layer and pooling the features are of may be chosen on val as well: every layer is tried with every pooling
    ("own" is the encoder's), as far as the architecture has them. -1 is the last layer.
    """

    name: str = "linear/v1"
    weight_decay: tuple[Positive, ...] = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
    layers: tuple[int, ...] = (-1,)
    poolings: tuple[str, ...] = ("own",)

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        """
        Raises:
            UserError: the architecture has none of these layers and poolings.
        """
        cuts = available(encoder, self.layers, self.poolings)
        train, val, test = (
            extract(encoder, source, context, cuts).to(context.device) for source in (data.train, data.val, data.test)
        )
        y_train, y_val, y_test = (all_labels(source).to(context.device) for source in (data.train, data.val, data.test))
        everything, labels, task = torch.cat((train, val)), torch.cat((y_train, y_val)), task_of(y_train)

        on_val, fitted = [], []
        for columns in _columns(encoder, cuts, train.shape[1]):
            found = self._fit(train[:, columns], y_train, data.num_classes)
            on_val += self._judge(found, val[:, columns], y_val, task)
            fitted.append((columns, found))
        settings = [
            {"weight_decay": decay, **(cut._asdict() if cuts != OWN else {})}
            for cut in cuts
            for decay in self.weight_decay
        ]
        best = max(range(len(settings)), key=lambda s: on_val[s][task.score])

        on_test, logits = [], test.new_empty(0)
        for number, (columns, found) in enumerate(fitted):
            found = self._fit(everything[:, columns], labels, data.num_classes, found)
            on_test += self._judge(found, test[:, columns], y_test, task)
            if best // len(self.weight_decay) == number:
                logits = found.logits(test[:, columns], best % len(self.weight_decay))
        return [
            Result(
                evaluator=self.name,
                settings=settings[best],
                metrics=on_test[best],
                n_train=len(everything),
                n_test=len(test),
                predictions=logits.argmax(1).cpu(),
                chosen_on="val",
                optimism=[
                    {"settings": setting, "top1": metrics["top1"]}
                    for setting, metrics in zip(settings, on_test, strict=True)
                ],
            )
        ]

    def _fit(self, x: Tensor, y: Tensor, num_classes: int, start: heads.Heads | None = None) -> heads.Heads:
        return heads.fit(x, y, num_classes=num_classes, weight_decay=torch.tensor(self.weight_decay), start=start)

    def _judge(self, found: heads.Heads, x: Tensor, y: Tensor, task: Task) -> list[dict[str, float]]:
        return [task.judge(found.logits(x, s), y) for s in range(len(self.weight_decay))]


def available(encoder: Encoder, layers: tuple[int, ...], poolings: tuple[str, ...]) -> tuple[Cut, ...]:
    """The cuts that an encoder has, of all layers with all poolings; raw pixels have their own alone.

    Raises:
        UserError: none.
    """
    network: Any = encoder.network
    if not isinstance(network, Backbone):
        return OWN
    cuts = [
        Cut(layer, None if pooling in ("own", network.pooling) else pooling)
        for layer in layers
        for pooling in poolings
        if -network.num_layers <= layer <= -1 and (pooling != "cls" or network.prefix_tokens)
    ]
    if not cuts:
        raise UserError(
            f"{encoder.provenance.backbone} has none of the layers {list(layers)} with pooling {list(poolings)}",
            encoder.provenance.run,
            f"give layers from -1 to -{network.num_layers}, and cls only where there is a class token",
        )
    return tuple(dict.fromkeys(cuts))


def _columns(encoder: Encoder, cuts: tuple[Cut, ...], total: int) -> list[slice]:
    ends = torch.tensor([0, *(widths(encoder, cuts) if len(cuts) > 1 else [total])]).cumsum(0).tolist()
    return [slice(begin, end) for begin, end in pairwise(ends)]
