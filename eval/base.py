"""What an evaluator is, what it may know, and the row it answers with."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_type_hints

import torch
from torch import Tensor, distributed, nn

from eval.classifier import Trained
from ssl_cls.augment.augment import AS_USUAL, Framing
from ssl_cls.data.source import Source, all_labels

T = TypeVar("T")

_OPTION = "an option"
Option = Annotated[T, _OPTION]
"""The type of a field that an evaluator's spec got later on: rows mention it only where it is not at its default, so
that a row from before there was such a field still says exactly what was done."""

_VARIANT = "a variant"
Variant = Annotated[T, _OPTION, _VARIANT]
"""An option that makes another way of evaluating: off its default it is part of the evaluator's name in rows, so that
both stand beside each other, in columns of their own."""


@dataclass(frozen=True)
class Provenance:
    """Where an encoder comes from, as every row repeats it."""

    run: str  # run directory's name, or the encoder as the user wrote it
    method: str  # simclr, mae, supervised, ...; "random", "pixels", "timm", "weights"
    backbone: str  # BackboneConfig.label: tables group by it; "" for pixels
    seed: int
    recipe: str | None = None  # config.digest of what it was pretrained by
    dataset: str | None = None  # what it was pretrained on
    images: str | None = None  # Source.members of what it was pretrained on
    images_seen: int = 0
    view_forwards: int = 0  # backbone passes of one view each: equal images are not equal compute
    seconds: float | None = None  # the clock's, so not part of a row
    input: dict[str, Any] | None = None  # of weights from elsewhere: how images are shown, whose word that is
    health: dict[str, str] | None = None  # state, reason and advice of the run's last verdict (ssl_cls/health.py)


@dataclass(frozen=True)
class Encoder:
    """A network to be judged, with all that is needed to feed it. `network.features(images)` gives [B, D]."""

    network: nn.Module
    input_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str  # of the weights; of the name for pixels
    provenance: Provenance
    out: Path  # eval/ folder of the run: rows, predictions and timings go here
    framing: Framing = AS_USUAL


@dataclass(frozen=True)
class EvalData:
    """Labelled splits. Settings are chosen on val; heads are refitted on train+val; test is scored once."""

    name: str
    train: Source
    val: Source
    test: Source
    num_classes: int
    # Source.members of what a run is trained on: of all training images, and of those with labels; empty: not known
    trainable: frozenset[str] = frozenset()
    window: tuple[float, float] | None = None  # DataConfig's

    @property
    def sha256(self) -> str:
        """Of what the three splits hold, images and labels: a name alone does not say."""
        return self._digest("fingerprint")

    @property
    def labelled_sha256(self) -> str:
        """Of which images the three splits hold, and their labels, wherever they lie: what rows must share."""
        return self._digest("members")

    def _digest(self, images: Literal["fingerprint", "members"]) -> str:
        digest = hashlib.sha256()
        for source in (self.train, self.val, self.test):
            digest.update(f"{getattr(source, images)} {len(source)} ".encode())
            digest.update(all_labels(source).cpu().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Context:
    """Where an evaluation runs. Ranks take whole jobs, so that numbers are those of one process, to the bit."""

    device: torch.device
    rank: int = 0
    num_ranks: int = 1
    seed: int = 0  # of heads and fine-tuning, not of the label draws, which are the same for every row and seed
    cache: Path = Path("runs/.features")

    def share(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What the jobs return, in their order, on every rank: rank r does jobs r, r + num_ranks and so on.

        Every rank must call it with the same jobs. What they return travels between the processes: plain data and
        small tensors on the CPU, no networks.
        """
        own = [job() for job in jobs[self.rank :: self.num_ranks]]
        if self.num_ranks == 1:
            return own
        parts: list[list[T]] = [[] for _ in range(self.num_ranks)]
        distributed.all_gather_object(parts, own, group=_patient())
        return [parts[number % self.num_ranks][number // self.num_ranks] for number in range(len(jobs))]

    def barrier(self) -> None:
        """Wait for all ranks, however long a job of theirs takes."""
        if self.num_ranks > 1:
            distributed.barrier(group=_patient())


@cache
def _patient() -> distributed.ProcessGroup:
    """All ranks, on the CPU; one may work for days while the others wait, where the usual group gives up in minutes."""
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=7))  # in milliseconds less than 2^31
    assert isinstance(group, distributed.ProcessGroup)
    return group


@dataclass(frozen=True)
class Result:
    """One evaluation. `predictions` (see `tasks.Task.answers`) and `optimism` are stored beside the row, not in it."""

    evaluator: str  # versioned: "knn/v1"; `judge` adds its variants
    settings: dict[str, Any]  # what was fixed and what was chosen
    metrics: dict[str, float]  # percent: top1, top5, mAP, ...; nats: cross_entropy
    n_train: int
    n_test: int
    predictions: Tensor
    chosen_on: str  # "val", "cv5", "holdout" (of the n labels), "fixed"
    n_labels: int | None = None  # None: all
    draw: int | None = None
    optimism: list[dict[str, Any]] = field(
        default_factory=list
    )  # {settings, top1 on test} of every setting; nothing reads it for choosing
    classifier: Trained | None = field(default=None, repr=False)  # to be used; written beside eval/


_LONGEST = 120  # characters of an evaluator in a file name, of which file systems take 255

PLACE = ("dataset", "evaluator", "n_labels", "draw")
"""The keys of a row that say which of a run's evaluations it is: a new one takes its place."""


def stem(dataset: str, evaluator: str, n_labels: int | None, draw: int | None) -> str:
    """What the files of an evaluation are called: digits/knn-v1, digits/fewlabel-v1-n100-d0."""
    few = "" if n_labels is None else f"-n{n_labels}-d{draw}"
    name = re.sub(r"[^\w.=-]+", "-", evaluator)
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{hashlib.sha256(evaluator.encode()).hexdigest()[:8]}"
    return f"{dataset.replace('/', '-')}/{name}{few}"


class Evaluator(Protocol):
    """A frozen spec is the evaluator. Every rank runs it; rank 0 gets the results, the others may get none."""

    @property
    def name(self) -> str: ...

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]: ...


def specification(evaluator: Evaluator) -> dict[str, Any]:
    """The evaluator's spec as rows keep it, in JSON's types: what makes two evaluations the same."""
    options = _marked(evaluator, _OPTION)
    usual = {one.name: one.default for one in fields(evaluator) if one.name in options}  # type: ignore[arg-type]
    said = {key: value for key, value in asdict(evaluator).items() if usual.get(key, ...) != value}  # type: ignore[call-overload]
    return json.loads(json.dumps(said))  # type: ignore[no-any-return]


def full_name(evaluator: Evaluator) -> str:
    """ "finetune/v1", or with variants off their defaults "finetune/v1 loss=focal strategy=top"."""
    told = {key: value for key, value in specification(evaluator).items() if key in _marked(evaluator, _VARIANT)}
    said = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in sorted(told.items()))
    return " ".join([evaluator.name, *said])


def _marked(evaluator: Evaluator, mark: str) -> set[str]:
    hints = get_type_hints(type(evaluator), include_extras=True)
    return {name for name, hint in hints.items() if mark in getattr(hint, "__metadata__", ())}


def input_of(encoder: Encoder, data: EvalData) -> dict[str, Any]:
    """How images are fed to it, as its rows say it: arrays are shown whole, whatever crop files would get."""
    told = {"size": encoder.input_size, "channels": encoder.channels, **(encoder.provenance.input or {})}
    return told | {"crop_pct": 1.0} if "crop_pct" in told and data.test.size is not None else told


def row(encoder: Encoder, data: EvalData, context: Context, result: Result) -> dict[str, Any]:
    """The line of results.jsonl: a function of weights, data, settings and seed, never of the clock."""
    come_from = asdict(encoder.provenance)
    return {
        "run": come_from["run"],
        "method": come_from["method"],
        "backbone": come_from["backbone"],
        "encoder_sha256": encoder.sha256,
        "seed": come_from["seed"],
        "pretrain": {
            **{key: come_from[key] for key in ("dataset", "images_seen", "view_forwards")},
            **({"recipe": come_from["recipe"]} if come_from["recipe"] else {}),
        },
        "evaluator": result.evaluator,
        "settings": result.settings,
        "dataset": data.name,
        "n_labels": result.n_labels,
        "draw": result.draw,
        "n_train": result.n_train,
        "n_test": result.n_test,
        "metrics": result.metrics,
        "chosen_on": result.chosen_on,
        "device": context.device.type,
        "input": input_of(encoder, data),
    }
