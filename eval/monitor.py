"""A kNN accuracy each epoch, while pretraining goes on. It is looked at and chooses nothing."""

import torch
from torch import Tensor, nn

from ssl_cls.augment.augment import whole
from ssl_cls.clock import Clock
from ssl_cls.data.source import Source
from ssl_cls.methods.base import Method
from ssl_cls.rng import DrawKey, permute

_QUERIES, _BANK, _K, _TEMPERATURE, _BATCH = 2_000, 4_000, 20, 0.07, 1_000


class KNNMonitor:
    """Top-1 of 20 weighted cosine neighbours: a fixed 2,000 of `val` against a fixed 4,000 of `train`."""

    def __init__(self, train: Source, val: Source, size: int) -> None:
        self.size = size
        self.parts = [
            (source, permute(torch.arange(min(n, len(source))), len(source), DrawKey(0, 0)))
            for source, n in ((train, _BANK), (val, _QUERIES))
        ]

    def epoch_end(self, method: Method, clock: Clock) -> dict[str, float]:
        (bank, bank_labels), (queries, labels) = (self._features(method.encoder, *part) for part in self.parts)
        similarity, nearest = (queries @ bank.T).topk(min(_K, len(bank)), dim=1)
        votes = torch.zeros(len(queries), int(bank_labels.max()) + 1, device=queries.device)
        votes.scatter_add_(1, bank_labels[nearest], (similarity / _TEMPERATURE).exp())
        return {"val_knn_top1": 100 * float((votes.argmax(1) == labels).float().mean())}

    def _features(self, encoder: nn.Module, source: Source, indices: Tensor) -> tuple[Tensor, Tensor]:
        device, training = next(encoder.parameters()).device, encoder.training
        encoder.eval()
        with torch.inference_mode():
            images = (
                whole(source.pixels(part).to(device), self.size, source.mean, source.std)
                for part in torch.split(indices, _BATCH)
            )
            features = torch.cat([encoder(x) for x in images]).float()
        encoder.train(training)
        return nn.functional.normalize(features, dim=1), source.labels(indices).to(device)
