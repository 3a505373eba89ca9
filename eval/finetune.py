"""Fine-tuning on n labels. From random weights, the same code, search and steps are training from scratch."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from eval.base import Context, Encoder, EvalData, Option, Result, Variant
from eval.classifier import Classifier
from eval.draws import bears_holding_out, num_labels
from eval.features import batches
from eval.inference import Inference, logits, trained
from eval.tasks import SHARE, task_of
from eval.tuning.cases import Case, Part, cases
from eval.tuning.losses import PROBABILITIES, Loss, loss, loss_for
from eval.tuning.strategies import Strategy, choose, ridge_accuracy
from eval.tuning.training import Course, Training, looks, train
from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import RunError, UserError
from ssl_cls.spec import Count, Natural, Positive, Share, spec

log = logging.getLogger(__name__)

_EPOCHS = 10.0  # on all labels, where nothing else is said
_FIXED_RATE = 1e-3  # where several are asked for and no label can be held out to choose by
_AUTO_FOLDS = 2  # of five, that `auto` holds out in turn: each costs it nine trainings


class Try(NamedTuple):
    """One setting, trained on each part's kept labels and judged on its held ones."""

    strategy: Strategy
    rate: float
    loss: float  # held out, mean over images
    top1: float  # percent, likewise
    course: Course
    on_test: float  # top-1 of the first part's model: for `optimism`, nothing chooses by it


@spec
class FineTune(Training):
    """A head and what `strategy` says of the network, trained on exactly n labels.

    A class-balanced fifth of the n labels chooses the learning rate, by the loss without smoothing; then all n are
    trained on, for as many steps. With all labels, `val` is what chooses. With fewer than two labels a class none can
    be held out: of several learning rates it is then 1e-3, fixed. Every encoder gets the same search. The result is a
    function of (encoder, data, seed, draw); ranks share the draws and the settings tried. Raw pixels have nothing to
    train: no result, and a line in the log.

    head   feature extraction: the network stays as it is, batch-norm statistics too
    top    its last `top_blocks` as well
    all    everything, with `layer_decay`
    auto   one of them, chosen on the labels: see `strategies.choose`; the row says why

    `optimism` has the test scores of the search's models too, which saw four fifths of the labels.
    """

    name: Literal["finetune/v1"] = "finetune/v1"
    n_labels: Count | Share | Literal["all"] = 600  # images, or a share of those labelled
    draws: tuple[Natural, ...] = (0,)
    learning_rates: tuple[Positive, ...] = (3e-4, 1e-3, 3e-3)
    steps: Count = 500
    batch_size: Count = 64
    epochs: Option[Positive | None] = None  # passes over the labels, in place of steps; None with all labels: 10
    strategy: Variant[Literal["head", "top", "all", "auto"]] = "all"
    inference: Variant[Inference] = "center"

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
            if not context.rank:
                log.warning("%s: %s has no weights to fine-tune", self.name, encoder.provenance.run)
            return []
        n_labels: int | Literal["all"] = "all" if self.n_labels == "all" else num_labels(self.n_labels, data)
        settings = self._settings(data, n_labels)
        num_parts = _AUTO_FOLDS if self.strategy == "auto" else 1
        given = cases(encoder, data, context, n_labels, self.draws, num_parts)
        tried = context.share([partial(self._try, case, *setting) for case in given for setting in settings])
        finished: list[Classifier] = []
        jobs = [
            partial(self._finish, case, tried[number * len(settings) :][: len(settings)], finished)
            for number, case in enumerate(given)
        ]
        results = context.share(jobs)
        if context.rank:
            return []
        model = trained(finished[0], encoder, data, PROBABILITIES.get(loss_for(self.loss, all_labels(data.test))))
        return [replace(results[0], classifier=model), *results[1:]]  # the first draw's, which the first rank finished

    def _settings(self, data: EvalData, n_labels: int | Literal["all"]) -> list[tuple[Strategy, float]]:
        """What is tried on held-out labels: nothing where there is no choice, or no label to hold out."""
        candidates: list[Strategy] = ["head", "top", "all"] if self.strategy == "auto" else [self.strategy]
        if self.strategy == "auto" and all_labels(data.test).ndim == 2:
            what = "auto compares accuracies, and these images have several labels each"
            raise UserError(what, "finetune.strategy", "give head, top or all")
        if isinstance(n_labels, int) and not bears_holding_out(n_labels, data.num_classes):
            if self.strategy == "auto" or looks(self):
                what = f"{n_labels} labels of {data.num_classes} classes leave none to hold out and choose by"
                fix = f"give {2 * data.num_classes} labels, or a plain strategy without patience and plateau"
                raise UserError(what, "finetune.n_labels", fix)
            return []
        settings = [(strategy, rate) for strategy in candidates for rate in self.learning_rates]
        return settings if len(settings) > 1 or looks(self) else []

    def _finish(self, case: Case, tries: list[Try], finished: list[Classifier]) -> Result:
        """The row of one draw; the first model goes to `finished`."""
        test, few, said = case.data.test, self.n_labels != "all", dict[str, str]()
        optimism = [self._entry(one, len(case.parts[0].kept), one.on_test) for one in tries]
        if not tries:
            assert self.strategy != "auto"
            rates = self.learning_rates
            rate = rates[0] if len(rates) == 1 else _FIXED_RATE
            chosen = Try(self.strategy, rate, math.inf, 0.0, Course(), 0.0)
        elif self.strategy == "auto":
            chosen, said = self._auto(case, tries)
        else:
            chosen = min(tries, key=lambda one: one.loss)

        model, _ = self._train(case, case.labelled, chosen.strategy, chosen.rate, course=chosen.course)
        if not finished:
            finished.append(model)
        answers = logits(model, case.encoder, test, case.device, self.inference)
        if not answers.isfinite().all():
            what = f"fine-tuning at the rate {chosen.rate:g} ended in numbers that are not finite"
            raise RunError(what, "finetune.learning_rates", "give lower rates")
        metrics = self._scores(answers, test)
        return Result(
            evaluator=self.name,
            settings={
                "learning_rate": chosen.rate,
                "learning_rates": list(self.learning_rates) if tries else [chosen.rate],
                "steps": self.num_steps(len(case.labelled)),
                "batch_size": self.batch_size,
                **said,
                **({"course": chosen.course._asdict()} if looks(self) else {}),
            },
            metrics=metrics,
            n_train=len(case.labelled),
            n_test=len(test),
            predictions=task_of(labels := all_labels(test)).answers(answers, 0.0 if self._probable(labels) else SHARE),
            chosen_on=case.chosen_on if tries else "fixed",
            n_labels=len(case.labelled) if few else None,
            draw=case.draw if few else None,
            optimism=[*optimism, self._entry(chosen, len(case.labelled), metrics["top1"])],
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

    def _try(self, case: Case, strategy: Strategy, rate: float) -> Try:
        """The first part's training finds the course, where one is looked for."""
        models: list[Classifier] = []
        total, right, course = 0.0, 0.0, None
        for part in case.parts:
            labels = all_labels(part.held)
            name = loss_for(self.loss, labels)

            def held_loss(model: Classifier, part: Part = part, labels: Tensor = labels, name: Loss = name) -> float:
                return float(loss(name, logits(model, case.encoder, part.held, case.device), labels))

            look = None if models else held_loss
            model, found = self._train(case, part.kept, strategy, rate, look, course)
            course = course or found
            answers = logits(model, case.encoder, part.held, case.device, self.inference)
            if not answers.isfinite().all():  # this rate is too high: it is not chosen
                return Try(strategy, rate, math.inf, 0.0, found, 0.0)
            total += float(loss(name, answers, labels)) * len(labels)
            right += self._scores(answers, part.held)["top1"] * len(labels)
            models.append(model)
        assert course is not None
        test, count = case.data.test, case.num_held
        on_test = self._scores(logits(models[0], case.encoder, test, case.device, self.inference), test)["top1"]
        return Try(strategy, rate, total / count, right / count, course, on_test)

    def _auto(self, case: Case, tries: list[Try]) -> tuple[Try, dict[str, str]]:
        """The chosen strategy at its best rate, and what the row says about it."""
        best = {one.strategy: one for one in sorted(tries, key=lambda one: -one.loss)}  # the last, lowest, stays
        scores = {strategy: best[strategy].top1 for strategy in dict.fromkeys(one.strategy for one in tries)}
        ridge = 0.0
        for part in case.parts:
            (x, y), (held, held_y) = ((_features(case, source), all_labels(source)) for source in part)
            ridge += ridge_accuracy(x, y, held, held_y) * len(held) / case.num_held
        choice = choose(len(case.labelled) / case.data.num_classes, ridge, scores, case.num_held)
        log.warning("%s: %s: %s: %s", self.name, case.encoder.provenance.run, choice.strategy, choice.why)
        return best[choice.strategy], choice._asdict()

    def _scores(self, answers: Tensor, source: Source) -> dict[str, float]:
        """Those of the other evaluators; cross-entropy and calibration only of logits that mean probabilities."""
        labels = all_labels(source)
        if self._probable(labels):
            return task_of(labels).judge(answers, labels)
        return task_of(labels).judge_shares(answers, labels)

    def _probable(self, labels: Tensor) -> bool:
        """Whether logits of the loss mean probabilities of such labels."""
        return PROBABILITIES.get(loss_for(self.loss, labels)) == ("softmax" if labels.ndim == 1 else "sigmoid")

    def _entry(self, one: Try, n: int, top1: float) -> dict[str, Any]:
        strategy = {"strategy": one.strategy} if self.strategy == "auto" else {}
        return {"settings": {"learning_rate": one.rate, "n_labels": n, **strategy}, "top1": top1}


@torch.inference_mode()
def _features(case: Case, source: Source) -> Tensor:
    """The frozen encoder's, [N, D]."""
    network: Any = case.encoder.network.to(case.device).eval()
    return torch.cat([network.features(images).cpu() for images in batches(case.encoder, source, case.device)])
