"""k nearest neighbours: what the geometry of the features says, without training anything on them."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from eval.base import Context, Encoder, EvalData, Option, Result
from eval.features import extract
from eval.neighbours import Metric, nearest, nearest_by_faiss
from eval.tasks import task_of
from ssl_cls.data.source import all_labels
from ssl_cls.spec import Count, Positive, spec


@spec
class KNN:
    """Neighbours vote with weight exp(similarity / temperature) (Wu et al. 2018, 3.4).

    k and the metric (cosine, and the same after subtraction of the bank's mean) are chosen on val with train as
    the bank, by top-1 or mAP; or, with choose="leave_one_out", on train and val, each image judged by the others. Then
    the bank is train and val, and test is asked once. The temperature is theirs and DINO's.
    """

    name: Literal["knn/v1"] = "knn/v1"
    k: tuple[Count, ...] = (5, 10, 20, 50, 100, 200)
    temperature: Positive = 0.07
    metrics: Option[tuple[Metric, ...]] = ("cosine", "centred")
    choose: Option[Literal["val", "leave_one_out"]] = "val"
    backend: Option[Literal["torch", "faiss"]] = "torch"

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        train, val, test = (
            extract(encoder, source, context).to(context.device) for source in (data.train, data.val, data.test)
        )
        if context.rank:
            return []  # one job
        y_train, y_val, y_test = (all_labels(source).to(context.device) for source in (data.train, data.val, data.test))
        bank, labels, task = torch.cat((train, val)), torch.cat((y_train, y_val)), task_of(y_train)

        if self.choose == "val":
            tried, truth = self._votes(train, y_train, val, data.num_classes), y_val
        else:
            tried, truth = self._votes(bank, labels, bank, data.num_classes, leave_one_out=True), labels
        scored = [(setting, task.judge_shares(votes, truth)[task.score]) for setting, votes in tried]
        chosen = max(scored, key=lambda one: one[1])[0]  # of equals the first: the smallest k, as they are

        on_test = list(self._votes(bank, labels, test, data.num_classes))
        votes = next(votes for setting, votes in on_test if setting == chosen)
        return [
            Result(
                evaluator=self.name,
                settings={**chosen, "temperature": self.temperature},
                metrics=task.judge_shares(votes, y_test),
                n_train=len(bank),
                n_test=len(test),
                predictions=votes.argmax(1).cpu(),
                chosen_on=self.choose,
                optimism=[
                    {"settings": setting, "top1": task.judge_shares(each, y_test)["top1"]} for setting, each in on_test
                ],
            )
        ]

    def _votes(
        self, bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, leave_one_out: bool = False
    ) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Every setting, and its votes [N, num_classes]: one search, with the largest k."""
        sizes = sorted({min(k, len(bank) - leave_one_out) for k in self.k})
        search = nearest if self.backend == "torch" else nearest_by_faiss
        found = search(bank, queries, sizes[-1], self.metrics, leave_one_out=leave_one_out)
        for metric, (similarity, index) in zip(self.metrics, found, strict=True):
            for k in sizes:
                setting: dict[str, Any] = {"k": k, "centred": metric == "centred"}
                if metric == "euclidean":
                    setting["metric"] = metric
                weights = (similarity[:, :k] / self.temperature).softmax(1)
                yield setting, vote(weights, index[:, :k], labels, num_classes)


def vote(weights: Tensor, index: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Shares of the votes [N, num_classes], from neighbours' weights and places in the bank, [N, k] each.

    labels: of the bank, int64 [M]: a neighbour votes for its class; or float [M, num_classes]: for each of its labels,
    so that a share is the weighted mean of the neighbours' label vectors.
    """
    shares = weights.new_zeros(len(weights), num_classes)
    if labels.ndim == 1:
        return shares.scatter_add_(1, labels[index], weights)
    for weight, own in zip(weights.T, index.T, strict=True):
        shares.addcmul_(weight[:, None], labels[own].to(shares.dtype))
    return shares
