"""The linear probe of published tables: augmented images, encoded anew in each epoch."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eval.base import Context, Encoder, EvalData, Result
from eval.channels import seen_with
from eval.features import extract
from eval.metrics import precision_at
from eval.tasks import task_of
from ssl_cls.augment.augment import Augment
from ssl_cls.augment.view import View
from ssl_cls.clock import Clock, warmup_cosine
from ssl_cls.data.catalog import fitting
from ssl_cls.data.source import all_labels
from ssl_cls.data.stream import Stream
from ssl_cls.spec import Count, Positive, spec


@spec
class LinearAug:
    """Random resized crops and flips, SGD with momentum .9 and no weight decay, cosine, last epoch (MoCo, He et al.
    2020, 4.1, and those who follow it). Every learning rate (for 256 images) is a head of its own: all are trained at
    once, on the same features of each batch, and val chooses among them.

    Differs: the chosen head is not trained again on train and val, which would encode everything once more; n_train
    says so. A flip is left out of small one-channel images and where `catalog.fitting` says so: digits have a left and
    a right.
    """

    name: Literal["linear_aug/v1"] = "linear_aug/v1"
    epochs: Count = 100
    batch_size: Count = 256
    learning_rates: tuple[Positive, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    batch_norm: bool = False  # without scale and offset, before the head (He et al. 2022, A.1)

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        val, test = (extract(encoder, source, context).to(context.device) for source in (data.val, data.test))
        if context.rank:
            return []  # one job: all heads see the same features of each batch
        y_val, y_test = (all_labels(source).to(context.device) for source in (data.val, data.test))
        seen: list[dict[str, Any]] = []

        def look(epoch: int, probes: list[nn.Module]) -> None:
            for rate, probe in zip(self.learning_rates, probes, strict=True):
                setting = {"learning_rate": rate, "epoch": epoch}
                seen.append({"settings": setting, "top1": _top1(probe(test), y_test)})

        probes = self.train(encoder, data, context, look)
        task = task_of(y_val)
        with torch.inference_mode():
            on_val = [task.judge(probe(val), y_val)[task.score] for probe in probes]
            logits = [probe(test) for probe in probes]
        best = max(range(len(probes)), key=lambda s: on_val[s])
        return [
            Result(
                evaluator=self.name,
                settings={"learning_rate": self.learning_rates[best], "epochs": self.epochs},
                metrics=task.judge(logits[best], y_test),
                n_train=len(data.train),
                n_test=len(test),
                predictions=task.answers(logits[best], 0.0),
                chosen_on="val",
                optimism=seen,
            )
        ]

    def train(
        self,
        encoder: Encoder,
        data: EvalData,
        context: Context,
        look: Callable[[int, list[nn.Module]], None] = lambda epoch, probes: None,
    ) -> list[nn.Module]:
        """A probe for each learning rate, in eval mode. torch's random state and the encoder stay as they were.

        `look` is shown them after each epoch (from 1), for what the best epoch on test would have claimed.
        """
        source = seen_with(data.train, encoder.channels)
        views = fitting(source.name, crops(encoder.input_size, encoder.channels))
        stream = Stream(
            source,
            Augment(views, encoder.mean, encoder.std),
            seed=context.seed,
            batch_size=min(self.batch_size, len(source)),
            device=context.device,
            needs_labels=True,
        )
        network, training = encoder.network.to(context.device), encoder.network.training
        network.eval()
        layout = torch.contiguous_format if getattr(network, "is_vit", True) else torch.channels_last
        task, total = task_of(all_labels(source)), self.epochs * stream.steps_per_epoch
        scale = min(self.batch_size, len(source)) / 256
        probes: list[nn.Module] = []
        optimizer: torch.optim.Optimizer | None = None
        try:
            for step, (batch,) in enumerate(stream.batches(0, total)):
                with torch.no_grad():
                    features: Tensor = network.features(batch.views["global"][0].contiguous(memory_format=layout))  # type: ignore[operator]
                if optimizer is None:
                    probes = [self._probe(features, data.num_classes, context.seed) for _ in self.learning_rates]
                    optimizer = torch.optim.SGD([{"params": probe.parameters()} for probe in probes], 0.0, momentum=0.9)
                for group, rate in zip(optimizer.param_groups, self.learning_rates, strict=True):
                    group["lr"] = warmup_cosine(Clock(step, total, stream.steps_per_epoch), rate * scale, 0, 0.0)
                assert batch.labels is not None
                losses = [task.loss(probe(features), batch.labels) / len(features) for probe in probes]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if (step + 1) % stream.steps_per_epoch == 0:
                    with torch.no_grad():
                        look((step + 1) // stream.steps_per_epoch, [probe.eval() for probe in probes])
                    for probe in probes:
                        probe.train()
        finally:
            network.train(training)
        return [probe.eval() for probe in probes]

    def _probe(self, features: Tensor, num_classes: int, seed: int) -> nn.Module:
        """Weights N(0, .01), biases 0, as MoCo's."""
        dim = features.shape[1]
        head = nn.Linear(dim, num_classes, device=features.device)
        drawn = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            head.weight.copy_(0.01 * drawn)
            head.bias.zero_()
        norm = nn.BatchNorm1d(dim, affine=False, device=features.device) if self.batch_norm else nn.Identity()
        return nn.Sequential(norm, head)


def _top1(logits: Tensor, labels: Tensor) -> float:
    if labels.ndim == 2:
        return precision_at(logits, labels, 1)
    return 100 * float((logits.argmax(1) == labels).double().mean())


def crops(size: int, channels: int) -> tuple[View, ...]:
    """Szegedy et al. 2015, section 6: 8 % of the area at least. Small images: 40 %, which leaves something to see."""
    small = size <= 64
    return (View(size=size, scale=(0.4 if small else 0.08, 1.0), flip=0.0 if small and channels == 1 else 0.5),)
