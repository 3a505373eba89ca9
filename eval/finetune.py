"""Fine-tuning on n labels. From random weights, the same code, search and steps are training from scratch."""

import logging
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from eval.base import Context, Encoder, EvalData, Option, Result
from eval.channels import seen_with
from eval.classifier import Classifier
from eval.draws import Pool, folds, label_draw, pool_labels
from eval.features import batches
from eval.inference import Inference, logits, trained
from eval.losses import PROBABILITIES, loss
from eval.metrics import accuracy, classification
from eval.strategies import Strategy, choose, ridge_accuracy
from eval.training import Course, Training, looks, train
from ssl_cls.data.source import Source, Subset, all_labels
from ssl_cls.rng import DrawKey, bits
from ssl_cls.spec import Count, Natural, Positive, spec

log = logging.getLogger(__name__)

_EPOCHS = 10.0  # on all labels, where nothing else is said
_AUTO_FOLDS = 2  # of five, that `auto` holds out in turn: each costs it nine trainings


class Part(NamedTuple):
    """Labels to train on, and labels held out of that to choose by."""

    kept: Source
    held: Source


class Case(NamedTuple):
    """One encoder on one draw of labels."""

    encoder: Encoder
    data: EvalData
    device: torch.device
    seed: int
    labelled: Source  # all images of the draw
    parts: list[Part]  # of them
    chosen_on: str


class Try(NamedTuple):
    """One setting, trained on each part's kept labels and judged on its held ones."""

    strategy: Strategy
    rate: float
    loss: float  # held out, mean over images
    top1: float  # percent, likewise
    course: Course


@spec
class FineTune(Training):
    """A fresh head and what `strategy` says of the network, trained on exactly n labels.

    A class-balanced fifth of the n labels chooses the learning rate, by the loss without smoothing; then all n are
    trained on, for as many steps. With all labels, `val` is what chooses. Every encoder gets the same search. The
    result is a function of (encoder, data, seed, draw), the same on every rank. Raw pixels have nothing to train: no
    result, and a line in the log.

    head   feature extraction: the network stays as it is, batch-norm statistics too
    top    its last `top_blocks` as well
    all    everything, with `layer_decay`
    auto   one of them, chosen on the labels: see `strategies.choose`; the row says why

    `optimism` has the test scores of the search's models too, which saw four fifths of the labels.
    """

    name: Literal["finetune/v1"] = "finetune/v1"
    n_labels: Count | Literal["all"] = 600
    draws: tuple[Natural, ...] = (0,)
    learning_rates: tuple[Positive, ...] = (3e-4, 1e-3, 3e-3)
    steps: Count = 500
    batch_size: Count = 64
    epochs: Option[Positive | None] = None  # passes over the labels, in place of steps; None with all labels: 10
    strategy: Option[Literal["head", "top", "all", "auto"]] = "all"
    inference: Option[Inference] = "center"

    def __post_init__(self) -> None:
        if self.n_labels == "all" and len(self.draws) != 1:
            raise ValueError("draws must be a single one where n_labels is all: there is nothing to draw")
        if not self.learning_rates:
            raise ValueError("learning_rates must not be empty")

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        """
        Raises:
            UserError: the data has too few labels, or n_labels is too few for the classes.
        """
        if next(encoder.network.parameters(), None) is None:
            log.warning("%s: %s has no weights to fine-tune", self.name, encoder.provenance.run)
            return []
        return [
            self._judge(case, draw, keep=draw == self.draws[0])
            for draw, case in zip(self.draws, self._cases(encoder, data, context), strict=True)
        ]

    def _cases(self, encoder: Encoder, data: EvalData, context: Context) -> list[Case]:
        pool = seen_with(Pool(f"{data.name}/pool", data.train, data.val), encoder.channels)
        if self.n_labels == "all":
            drawn: list[Source] = [pool]
        else:
            labels = pool_labels(data.train, data.val)
            members = [label_draw(labels, data.num_classes, self.n_labels, draw) for draw in self.draws]
            drawn = [Subset(pool, own, f"{data.name}/drawn") for own in members]
        cases = []
        for draw, labelled in zip(self.draws, drawn, strict=True):
            seed = int(bits(DrawKey(context.seed, draw), torch.zeros(1, dtype=torch.int64), 0, 1))
            if self.n_labels == "all":
                parts, chosen_on = [Part(data.train, data.val)], "val"
            else:
                fold, chosen_on = folds(all_labels(labelled)), "holdout"
                held_out = range(_AUTO_FOLDS if self.strategy == "auto" else 1)
                parts = [Part(*(_members(labelled, one) for one in (fold != k, fold == k))) for k in held_out]
            cases.append(Case(encoder, data, context.device, seed, labelled, parts, chosen_on))
        return cases

    def _judge(self, case: Case, draw: int, keep: bool) -> Result:
        """The row of one draw; `keep`: with its classifier."""
        test, few = case.data.test, self.n_labels != "all"
        candidates: list[Strategy] = ["head", "top", "all"] if self.strategy == "auto" else [self.strategy]
        settings = [(strategy, rate) for strategy in candidates for rate in self.learning_rates]
        tries, optimism, said = [Try(*settings[0], math.inf, 0.0, Course())], [], dict[str, str]()
        searched = len(settings) > 1 or looks(self)
        if searched:
            tries = []
            for strategy, rate in settings:
                one, model = self._try(case, strategy, rate)
                tries.append(one)
                on_test = self._scores(logits(model, case.encoder, test, case.device, self.inference), test)
                optimism.append(self._entry(one, len(case.parts[0].kept), on_test))
        chosen = min(tries, key=lambda one: one.loss)
        if self.strategy == "auto":
            chosen, said = self._auto(case, tries)

        model, _ = self._train(case, case.labelled, chosen.strategy, chosen.rate, course=chosen.course)
        answers = logits(model, case.encoder, test, case.device, self.inference)
        metrics = self._scores(answers, test)
        means = PROBABILITIES.get(self.loss)
        return Result(
            evaluator=self.name,
            settings={
                "learning_rate": chosen.rate,
                "learning_rates": list(self.learning_rates),
                "steps": self.num_steps(len(case.labelled)),
                "batch_size": self.batch_size,
                **said,
                **({"course": chosen.course._asdict()} if looks(self) else {}),
            },
            metrics=metrics,
            n_train=len(case.labelled),
            n_test=len(test),
            predictions=answers.argmax(1),
            chosen_on=case.chosen_on if searched else "fixed",
            n_labels=len(case.labelled) if few else None,
            draw=draw if few else None,
            optimism=[*optimism, self._entry(chosen, len(case.labelled), metrics)],
            classifier=trained(model, case.encoder, case.data, means) if keep else None,
        )

    def num_steps(self, num_images: int) -> int:
        """Optimizer steps of a training on so many images."""
        epochs = self.epochs or (_EPOCHS if self.n_labels == "all" else None)
        if epochs is None:
            return self.steps
        return max(1, round(epochs * (num_images // min(self.batch_size, num_images))))

    def _train(
        self,
        case: Case,
        source: Source,
        strategy: Strategy,
        rate: float,
        held_loss: Callable[[Classifier], float] | None = None,
        course: Course | None = None,
    ) -> tuple[Classifier, Course]:
        fixed = case.encoder, source, case.data.num_classes, strategy, rate
        steps = self.num_steps(len(source))
        return train(self, *fixed, steps, self.batch_size, case.seed, case.device, held_loss=held_loss, course=course)

    def _try(self, case: Case, strategy: Strategy, rate: float) -> tuple[Try, Classifier]:
        """Also the model of the first part, which finds the course where one is looked for."""
        models: list[Classifier] = []
        total, right, course = 0.0, 0.0, None
        for part in case.parts:
            labels = all_labels(part.held)

            def held_loss(model: Classifier, part: Part = part, labels: Tensor = labels) -> float:
                return float(loss(self.loss, logits(model, case.encoder, part.held, case.device), labels))

            look = None if models else held_loss
            model, found = self._train(case, part.kept, strategy, rate, look, course)
            course = course or found
            answers = logits(model, case.encoder, part.held, case.device, self.inference)
            total += float(loss(self.loss, answers, labels)) * len(labels)
            right += accuracy(answers, labels)["top1"] * len(labels)
            models.append(model)
        assert course is not None
        count = _num_held(case)
        return Try(strategy, rate, total / count, right / count, course), models[0]

    def _auto(self, case: Case, tries: list[Try]) -> tuple[Try, dict[str, str]]:
        """The chosen strategy at its best rate, and what the row says about it."""
        best = {one.strategy: one for one in sorted(tries, key=lambda one: -one.loss)}  # the last, lowest, stays
        scores = {strategy: best[strategy].top1 for strategy in dict.fromkeys(one.strategy for one in tries)}
        ridge = 0.0
        for part in case.parts:
            (x, y), (held, held_y) = ((_features(case, source), all_labels(source)) for source in part)
            ridge += ridge_accuracy(x, y, held, held_y) * len(held) / _num_held(case)
        choice = choose(len(case.labelled) / case.data.num_classes, ridge, scores, _num_held(case))
        log.warning("%s: %s: %s: %s", self.name, case.encoder.provenance.run, choice.strategy, choice.why)
        return best[choice.strategy], choice._asdict()

    def _scores(self, answers: Tensor, source: Source) -> dict[str, float]:
        """Cross-entropy only of a loss whose logits mean softmax probabilities."""
        judged = classification if PROBABILITIES.get(self.loss) == "softmax" else accuracy
        return judged(answers, all_labels(source))

    def _entry(self, one: Try, n: int, metrics: dict[str, float]) -> dict[str, Any]:
        strategy = {"strategy": one.strategy} if self.strategy == "auto" else {}
        return {"settings": {"learning_rate": one.rate, "n_labels": n, **strategy}, "top1": metrics["top1"]}


def _members(source: Source, chosen: Tensor) -> Source:
    return Subset(source, torch.nonzero(chosen)[:, 0], source.name)


def _num_held(case: Case) -> int:
    return sum(len(part.held) for part in case.parts)


@torch.inference_mode()
def _features(case: Case, source: Source) -> Tensor:
    """The frozen encoder's, [N, D]."""
    network: Any = case.encoder.network.to(case.device).eval()
    return torch.cat([network.features(images).cpu() for images in batches(case.encoder, source, case.device)])
