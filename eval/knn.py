"""k nearest neighbours: what the geometry of the features says, without training anything on them."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.base import Context, Encoder, EvalData, Result
from eval.features import extract
from eval.metrics import accuracy
from ssl_cls.data.source import all_labels
from ssl_cls.spec import Count, Positive, spec

_CHUNK = 2**25  # similarities held at a time: 128 MiB, whatever the sizes


@spec
class KNN:
    """Cosine neighbours vote with weight exp(similarity / temperature) (Wu et al. 2018, 3.4).

    k, and whether the mean of the bank is subtracted first, are chosen by top-1 on val with train as the
    bank. Then the bank is train and val, and test is asked once. The temperature is theirs and DINO's.
    """

    name: Literal["knn/v1"] = "knn/v1"
    k: tuple[Count, ...] = (5, 10, 20, 50, 100, 200)
    temperature: Positive = 0.07

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        train, val, test = (
            extract(encoder, source, context).to(context.device) for source in (data.train, data.val, data.test)
        )
        y_train, y_val, y_test = (all_labels(source).to(context.device) for source in (data.train, data.val, data.test))

        on_val = [
            (setting, accuracy(votes, y_val)["top1"])
            for setting, votes in self._votes(train, y_train, val, data.num_classes)
        ]
        chosen = max(on_val, key=lambda scored: scored[1])[0]  # of equals the first: the smallest k, as they are

        bank, labels = torch.cat((train, val)), torch.cat((y_train, y_val))
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
                chosen_on="val",
                optimism=[{"settings": setting, "top1": accuracy(each, y_test)["top1"]} for setting, each in on_test],
            )
        ]

    def _votes(
        self, bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int
    ) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Every setting, and its votes [N, num_classes]: one search a metric, with the largest k."""
        sizes = sorted({min(k, len(bank)) for k in self.k})
        for centred in (False, True):
            mean = bank.mean(0) if centred else bank.new_zeros(())
            similarity, index = neighbours(bank - mean, queries - mean, sizes[-1])
            for k in sizes:
                yield (
                    {"k": k, "centred": centred},
                    vote(similarity[:, :k], labels[index[:, :k]], num_classes, self.temperature),
                )


def vote(similarity: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Cosines and labels of the neighbours [N, k] -> shares of the votes [N, num_classes]; rows sum to 1."""
    weights = (similarity / temperature).softmax(1)
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)


def neighbours(bank: Tensor, queries: Tensor, k: int, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """The k rows of `bank` [M, D] most similar to each query [N, D]: falling cosines and indices [N, k].

    The search is exact, by "faiss" (the default on a CPU) or "torch" (any device). A row of zeros has
    cosine 0 with everything.
    """
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    if (backend or ("faiss" if bank.device.type == "cpu" else "torch")) == "faiss":
        return _faiss(bank, queries, k)
    parts: Sequence[Tensor] = torch.split(queries, max(1, _CHUNK // len(bank)))
    similarity, index = zip(*((part @ bank.T).topk(k, dim=1) for part in parts), strict=True)
    return torch.cat(similarity), torch.cat(index)


def _faiss(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())  # a launcher may have told OpenMP to use one
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank.numpy())
    similarity, found = index.search(queries.numpy(), k)
    return torch.from_numpy(similarity), torch.from_numpy(found)
