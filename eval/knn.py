"""k nearest neighbours: what the geometry of the features says, without training anything on them."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor

from eval.base import Context, Encoder, EvalData, Option, Result, Variant
from eval.frozen import Split, frozen
from eval.neighbours import Metric, nearest, nearest_by_faiss
from eval.tasks import SHARE
from ssl_cls.spec import Count, Positive, spec


@spec
class KNN:
    """Neighbours vote with weight exp(similarity / temperature) (Wu et al. 2018, 3.4).

    k and the metric (cosine, and the same after subtraction of the bank's mean) are chosen on val with train as
    the bank, by top-1 or mAP; or, with choose="leave_one_out", on train and val, each image judged by the others. Then
    the bank is train and val, and test is asked once. The temperature is theirs and DINO's.

    backend: the answers are the same. `auto` is faiss for a single metric on a CPU, where it is a third faster, and
    else torch, which has all metrics by one pass of products and knows accelerators.
    """

    name: Literal["knn/v1"] = "knn/v1"
    k: tuple[Count, ...] = (5, 10, 20, 50, 100, 200)
    temperature: Positive = 0.07
    metrics: Variant[tuple[Metric, ...]] = ("cosine", "centred")
    choose: Variant[Literal["val", "leave_one_out"]] = "val"
    backend: Option[Literal["auto", "torch", "faiss"]] = "auto"

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        given = frozen(encoder, data, context)
        if given is None:
            return []
        train, val, both, test, task = given
        if self.choose == "val":
            tried, judged = self._votes(train, val.x, data.num_classes), val
        else:
            tried, judged = self._votes(both, both.x, data.num_classes, leave_one_out=True), both
        scored = [(setting, task.judge_shares(votes, judged.y)[task.score]) for setting, votes in tried]
        chosen = max(scored, key=lambda one: one[1])[0]  # of equals the first: the smallest k, as they are

        on_test = list(self._votes(both, test.x, data.num_classes))
        votes = next(votes for setting, votes in on_test if setting == chosen)
        return [
            Result(
                evaluator=self.name,
                settings={**chosen, "temperature": self.temperature},
                metrics=task.judge_shares(votes, test.y),
                n_train=len(both.y),
                n_test=len(test.y),
                predictions=task.answers(votes, SHARE),
                chosen_on=self.choose,
                optimism=[
                    {"settings": setting, "top1": task.judge_shares(each, test.y)["top1"]} for setting, each in on_test
                ],
            )
        ]

    def _votes(
        self, bank: Split, queries: Tensor, num_classes: int, leave_one_out: bool = False
    ) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Every setting, and its votes [N, num_classes]: one search, with the largest k. Of a smaller bank all vote."""
        sizes = sorted(set(self.k))
        alone = len(self.metrics) == 1 and bank.x.device.type == "cpu"
        by_faiss = self.backend == "faiss" or (self.backend == "auto" and alone)
        search = nearest_by_faiss if by_faiss else nearest
        found = search(bank.x, queries, sizes[-1], self.metrics, leave_one_out=leave_one_out)
        for metric, (similarity, index) in zip(self.metrics, found, strict=True):
            for k in sizes:
                setting: dict[str, Any] = {"k": k, "centred": metric == "centred"}
                if metric == "euclidean":
                    setting["metric"] = metric
                weights = (similarity[:, :k] / self.temperature).softmax(1)
                yield setting, vote(weights, index[:, :k], bank.y, num_classes)


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
