"""Fine-tuning on n labels. From random weights the same code, search and steps are training from scratch."""

import copy
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.base import Context, Encoder, EvalData, Result
from eval.draws import Pool, folds, label_draw, pool_labels
from eval.features import batches
from eval.metrics import classification
from ssl_cls.augment.augment import Augment
from ssl_cls.augment.presets import supervised
from ssl_cls.clock import Clock, warmup_cosine
from ssl_cls.data.source import Source, Subset, all_labels
from ssl_cls.data.stream import Stream
from ssl_cls.rng import DrawKey, bits
from ssl_cls.spec import Count, Natural, Positive, spec

log = logging.getLogger(__name__)

_WEIGHT_DECAY, _LABEL_SMOOTHING, _WARMUP = 0.05, 0.1, 0.1


class Classifier(nn.Module):
    """A copy of an encoder's network, all of it trainable, under a fresh linear head.

    The head starts at zero, as MAE's starts within 2e-5 of it (He et al. 2022, A.1): whatever the scale of the
    features, the first steps are small ones.
    """

    def __init__(self, network: nn.Module, num_classes: int, example: Tensor) -> None:
        super().__init__()
        self.network: Any = copy.deepcopy(network).requires_grad_().to(example.device)
        with torch.no_grad():
            dim = self.network.eval().features(example).shape[1]
        self.head = nn.Linear(dim, num_classes, device=example.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """float [B, C, H, W] -> logits [B, num_classes]."""
        return self.head(self.network.features(images))  # type: ignore[no-any-return]


@spec
class FineTune:
    """All layers and a fresh head, trained on exactly n labels: AdamW, warm-up and cosine, mild augmentation.

    The learning rate is chosen on a class-balanced fifth of the n labels; then all n are used, for as many steps. Every
    encoder gets the same search. A function of (encoder, data, seed, draw); ranks all compute the same.

    Raw pixels have nothing to train: no result, and a line in the log.
    """

    name: str = "finetune/v1"
    n_labels: Count = 600
    draws: tuple[Natural, ...] = (0,)
    learning_rates: tuple[Positive, ...] = (3e-4, 1e-3, 3e-3)
    steps: Count = 500
    batch_size: Count = 64

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        if next(encoder.network.parameters(), None) is None:
            log.warning("%s: %s has no weights to fine-tune", self.name, encoder.provenance.run)
            return []
        pool = Pool(f"{data.name}/pool", data.train, data.val)
        labels = pool_labels(data.train, data.val)
        return [
            self._judge(encoder, data, context, pool, label_draw(labels, data.num_classes, self.n_labels, draw), draw)
            for draw in self.draws
        ]

    def _judge(
        self, encoder: Encoder, data: EvalData, context: Context, pool: Source, members: Tensor, draw: int
    ) -> Result:
        seed = int(bits(DrawKey(context.seed, draw), torch.zeros(1, dtype=torch.int64), 0, 1))
        fold = folds(pool.labels(members).cpu())
        kept = Subset(pool, members[fold > 0], f"{data.name}/kept")
        held = Subset(pool, members[fold == 0], f"{data.name}/held")
        tried = []
        for lr in self.learning_rates:
            model = self._train(encoder, data.num_classes, kept, lr, seed, context.device)
            on_held = classification(_logits(model, encoder, held, context), all_labels(held))
            tried.append((lr, on_held, classification(_logits(model, encoder, data.test, context), all_labels(data.test))))
        chosen = max(tried, key=lambda t: (t[1]["top1"], -t[1]["cross_entropy"]))[0]

        model = self._train(encoder, data.num_classes, Subset(pool, members, f"{data.name}/drawn"), chosen, seed, context.device)
        logits = _logits(model, encoder, data.test, context)
        metrics = classification(logits, all_labels(data.test))
        return Result(
            evaluator=self.name,
            settings={"learning_rate": chosen, "learning_rates": list(self.learning_rates), "steps": self.steps, "batch_size": self.batch_size},
            metrics=metrics,
            n_train=len(members),
            n_test=len(data.test),
            predictions=logits.argmax(1),
            chosen_on="holdout",
            n_labels=self.n_labels,
            draw=draw,
            optimism=[
                {"settings": {"learning_rate": lr, "n_labels": len(kept)}, "top1": on_test["top1"]} for lr, _, on_test in tried
            ] + [{"settings": {"learning_rate": chosen, "n_labels": len(members)}, "top1": metrics["top1"]}],
        )

    def _train(self, encoder: Encoder, num_classes: int, source: Source, lr: float, seed: int, device: torch.device) -> Classifier:
        """A classifier trained on `source`, in eval mode. torch's global random state is left as it was."""
        views = supervised(encoder.input_size, encoder.channels)
        stream = Stream(
            source, Augment(views, encoder.mean, encoder.std), seed=seed, batch_size=min(self.batch_size, len(source)), device=device, needs_labels=True
        )
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)  # drop-path and dropout
            example = torch.zeros(1, encoder.channels, encoder.input_size, encoder.input_size, device=device)
            # Convolutions on a CPU are up to twice as fast on channels-last maps.
            model = Classifier(encoder.network, num_classes, example).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            decayed = [p for p in model.parameters() if p.ndim > 1]
            others = [p for p in model.parameters() if p.ndim <= 1]
            groups = [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=lr)
            for step, (batch,) in enumerate(stream.batches(0, self.steps)):
                for group in optimizer.param_groups:
                    group["lr"] = warmup_cosine(Clock(step, self.steps, self.steps), lr, math.ceil(_WARMUP * self.steps), 0.0)
                (images,) = batch.views["global"]
                logits = model(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, batch.labels, label_smoothing=_LABEL_SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model.eval()
