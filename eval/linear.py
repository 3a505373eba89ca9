"""The linear probe: multinomial logistic regression on frozen features."""

from typing import Literal

import torch

from eval import heads
from eval.base import Context, Encoder, EvalData, Result
from eval.classifier import Classifier, Trained
from eval.features import extract
from eval.inference import trained
from eval.metrics import classification
from ssl_cls.backbone import Backbone
from ssl_cls.data.source import all_labels
from ssl_cls.spec import Positive, spec


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
        train, val, test = (
            extract(encoder, source, context).to(context.device) for source in (data.train, data.val, data.test)
        )
        y_train, y_val, y_test = (all_labels(source).to(context.device) for source in (data.train, data.val, data.test))
        decay, sweep = torch.tensor(self.weight_decay), range(len(self.weight_decay))

        fitted = heads.fit(train, y_train, num_classes=data.num_classes, weight_decay=decay)
        best = max(sweep, key=lambda s: classification(fitted.logits(val, s), y_val)["top1"])
        everything, labels = torch.cat((train, val)), torch.cat((y_train, y_val))
        fitted = heads.fit(everything, labels, num_classes=data.num_classes, weight_decay=decay, start=fitted)

        on_test = [classification(fitted.logits(test, s), y_test) for s in sweep]
        return [
            Result(
                evaluator=self.name,
                settings={"weight_decay": self.weight_decay[best]},
                metrics=on_test[best],
                n_train=len(everything),
                n_test=len(test),
                predictions=fitted.logits(test, best).argmax(1).cpu(),
                chosen_on="val",
                optimism=[
                    {"settings": {"weight_decay": self.weight_decay[s]}, "top1": on_test[s]["top1"]} for s in sweep
                ],
                classifier=_classifier(fitted, best, encoder, data, context.device),
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
    return trained(model, encoder, data, "softmax")
