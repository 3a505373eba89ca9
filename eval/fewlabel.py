"""A linear head on n labels, which choose its regularisation as well."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from eval.base import Context, Encoder, EvalData, Result
from eval.draws import bears_holding_out, folds, label_draw, num_labels, pool_labels
from eval.features import extract
from eval.heads import Heads, fit
from eval.tasks import task_of
from ssl_cls.data.source import all_labels
from ssl_cls.spec import Count, Natural, Share, spec

_FOLDS = 5
_WEIGHT_DECAYS = tuple(10.0 ** (power / 2) for power in range(-6, 3))  # 0.001 to 10, for standardised features
_FIXED = 0.1  # within 0.4 points of the best of these on val, pixels and a random CNN, 10 labels, 17 unused draws


@spec
class FewLabel:
    """Logistic regression on the frozen features of n images, for each n and draw.

    Only the n images have a say. Their 5-fold cross-validation chooses the weight decay, by cross-entropy: of
    12 cases on Fashion-MNIST that missed the best there was by 0.6 points at most, top-1 by up to 2.9, for so
    few images often tie. The head is then refitted on all n. With fewer than two images a class there is nothing to
    cross-validate on, and the weight decay is fixed.
    """

    name: Literal["fewlabel/v1"] = "fewlabel/v1"
    n_labels: tuple[Count | Share, ...] = (100, 600)  # images, or a share of those labelled
    draws: tuple[Natural, ...] = (0, 1, 2, 3, 4)

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        """
        Raises:
            UserError: the data has too few labels for an n, or n is fewer than one a class.
        """
        labels, test_labels = pool_labels(data.train, data.val), all_labels(data.test)
        cases = [(num_labels(n, data), draw) for n in self.n_labels for draw in self.draws]
        members = [label_draw(labels, data.num_classes, n, draw) for n, draw in cases]
        train, val, test = (extract(encoder, source, context) for source in (data.train, data.val, data.test))

        def judge(n: int, draw: int, drawn: Tensor) -> Result:
            rows = [train[i] if i < len(train) else val[i - len(train)] for i in drawn.tolist()]
            features, own = torch.stack(rows).to(context.device), labels[drawn].to(context.device)
            best, heads = chosen_head(features, own, data.num_classes)
            chosen = {"folds": _FOLDS} if bears_holding_out(n, data.num_classes) else {}
            scored = [task_of(labels).judge(heads.logits(test, s), test_labels) for s in range(len(_WEIGHT_DECAYS))]
            return Result(
                evaluator=self.name,
                settings={"weight_decay": _WEIGHT_DECAYS[best], **chosen},
                metrics=scored[best],
                n_train=n,
                n_test=len(data.test),
                predictions=task_of(labels).answers(heads.logits(test, best), 0.0),
                chosen_on=f"cv{_FOLDS}" if chosen else "fixed",
                n_labels=n,
                draw=draw,
                optimism=[
                    {"settings": {"weight_decay": decay}, "top1": score["top1"]}
                    for decay, score in zip(_WEIGHT_DECAYS, scored, strict=True)
                ],
            )

        return context.share([partial(judge, *case, own) for case, own in zip(cases, members, strict=True)])


def chosen_head(features: Tensor, labels: Tensor, num_classes: int) -> tuple[int, Heads]:
    """Heads on all of float [n, D] features, a weight decay each, and which of them the labels choose."""
    if bears_holding_out(len(labels), num_classes):
        losses, heads = cross_validate(features, labels, num_classes)
        return int(losses.argmin()), heads
    decays = torch.tensor(_WEIGHT_DECAYS)
    return _WEIGHT_DECAYS.index(_FIXED), fit(features, labels, num_classes=num_classes, weight_decay=decays)


def cross_validate(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Heads]:
    """Held-out cross-entropy of each weight decay, float [R], and the R heads fitted on everything.

    All folds and weight decays are one batch of problems, on float [n, D] features and int64 [n] or
    float [n, K] labels.
    """
    fold = folds(labels.cpu()).to(labels.device)
    used = torch.stack([fold != k for k in range(_FOLDS)] + [fold >= 0]).float()
    decays = torch.tensor(_WEIGHT_DECAYS)
    heads = fit(
        features,
        labels,
        num_classes=num_classes,
        weight_decay=decays.repeat(len(used)),
        sample_weight=used.repeat_interleave(len(decays), 0),
        tolerance=1e-4,
    )
    losses = torch.zeros(len(decays), device=features.device)
    for k in range(_FOLDS):
        held = fold == k
        for r in range(len(decays)):
            logits = heads.logits(features[held], k * len(decays) + r)
            losses[r] += task_of(labels).loss(logits, labels[held]) / len(labels)
    return losses, Heads(heads.weight[-len(decays) :], heads.bias[-len(decays) :])
