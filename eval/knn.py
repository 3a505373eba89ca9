"""k nearest neighbours: what the geometry of the features says, without training anything on them."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from eval.base import Context, Encoder, EvalData, Result
from eval.features import extract
from eval.metrics import accuracy
from eval.neighbours import Metric, nearest, nearest_by_faiss
from ssl_cls.data.source import all_labels
from ssl_cls.spec import Count, Positive, spec


@spec
class KNN:
    """Neighbours vote with weight exp(similarity / temperature) (Wu et al. 2018, 3.4).

    k and the metric (cosine, and the same after subtraction of the bank's mean) are chosen by top-1 on val with
    train as the bank; or, with choose="leave_one_out", on train and val, each image judged by the others. Then
    the bank is train and val, and test is asked once. The temperature is theirs and DINO's.
    """

    name: str = "knn/v1"
    k: tuple[Count, ...] = (5, 10, 20, 50, 100, 200)
    temperature: Positive = 0.07
    metrics: tuple[Metric, ...] = ("cosine", "centred")
    choose: Literal["val", "leave_one_out"] = "val"
    backend: Literal["torch", "faiss"] = "torch"

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        train, val, test = (
            extract(encoder, source, context).to(context.device) for source in (data.train, data.val, data.test)
        )
        y_train, y_val, y_test = (all_labels(source).to(context.device) for source in (data.train, data.val, data.test))
        bank, labels = torch.cat((train, val)), torch.cat((y_train, y_val))

        if self.choose == "val":
            tried, truth = self._votes(train, y_train, val, data.num_classes), y_val
        else:
            tried, truth = self._votes(bank, labels, bank, data.num_classes, leave_one_out=True), labels
        scored = [(setting, accuracy(votes, truth)["top1"]) for setting, votes in tried]
        chosen = max(scored, key=lambda one: one[1])[0]  # of equals the first: the smallest k, as they are

        on_test = list(self._votes(bank, labels, test, data.num_classes))
        votes = next(votes for setting, votes in on_test if setting == chosen)
        return [
            Result(
                evaluator=self.name,
                settings={**chosen, "temperature": self.temperature},
                metrics=accuracy(votes, y_test),
                n_train=len(bank),
                n_test=len(test),
                predictions=votes.argmax(1).cpu(),
                chosen_on=self.choose,
                optimism=[{"settings": setting, "top1": accuracy(each, y_test)["top1"]} for setting, each in on_test],
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
                setting = {"k": k, "centred": metric == "centred"}
                if metric == "euclidean":
                    setting["metric"] = metric
                yield setting, vote(similarity[:, :k], labels[index[:, :k]], num_classes, self.temperature)


def vote(similarity: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Similarities and labels of the neighbours [N, k] -> shares of the votes [N, num_classes]; rows sum to 1."""
    weights = (similarity / temperature).softmax(1)
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)
