"""A suite: recipes x seeds, and what is done with each. Everything that is already done is skipped."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate.commands.config.config_args import default_config_file

from eval import encoders, fitting
from eval.base import Context, EvalData, Evaluator, specification
from eval.comparison.record import Row
from eval.data import open_data, shown
from eval.fewlabel import FewLabel
from eval.finetune import FineTune
from eval.fitting import Fit
from eval.judge import judge
from eval.knn import KNN
from eval.linear import Linear
from ssl_cls import config, plan
from ssl_cls.config import Recipe
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError
from ssl_cls.run import Run
from ssl_cls.spec import Count, Natural, Positive, Share, spec


@spec
class FewLabelPart:
    n_labels: tuple[Count | Share, ...] = (100, 600)
    draws: Count | tuple[Count, ...] = 5  # of each n, or a number for each of them

    def __post_init__(self) -> None:
        _draws(self.n_labels, self.draws)


@spec
class FineTunePart:
    n_labels: tuple[Count | Share | Literal["all"], ...] = (600,)
    draws: Count | tuple[Count, ...] = 1
    learning_rates: tuple[Positive, ...] = FineTune().learning_rates
    steps: Count = FineTune().steps
    epochs: Positive | None = None  # on all labels, in place of steps; None: FineTune's own

    def __post_init__(self) -> None:
        _draws(self.n_labels, self.draws)


def _draws(n_labels: tuple[Any, ...], draws: int | tuple[int, ...]) -> list[tuple[int, ...]]:
    """The draws of each n; of all labels there is one."""
    counts = (draws,) * len(n_labels) if isinstance(draws, int) else draws
    if len(counts) != len(n_labels):
        raise ValueError(f"draws must be one number, or {len(n_labels)}: one for each of n_labels")
    return [tuple(range(1 if n == "all" else count)) for n, count in zip(n_labels, counts, strict=True)]


@spec
class Suite:
    name: str
    recipes: tuple[str, ...]  # each as on a command line: a file, and overrides such as train.epochs=3
    changes: tuple[str, ...] = ()  # overrides of every recipe, after its own
    fit: tuple[Fit, ...] = ()  # size and budget by the images' size: the first that is for them
    seeds: tuple[Natural, ...] = (0,)
    labels_per_class: tuple[Count, ...] = ()  # in place of both n_labels, by the classes that the data have
    few_label: FewLabelPart = field(default_factory=FewLabelPart)
    fine_tune: FineTunePart = field(default_factory=FineTunePart)
    results: str | None = None  # the committed rows: what a run has there is not done again, what is new is added

    @property
    def folder(self) -> Path:
        return Path("runs") / self.name


class Pretraining(NamedTuple):
    recipe: Recipe  # complete, as its run saves it
    command: list[str]

    def check(self) -> None:
        """
        Raises:
            UserError: its folder holds a run of another recipe.
        """
        try:
            self.run.check()
        except UserError as error:
            fix = "give the changed suite a name of its own with name=..., or undo the change to resume"
            raise UserError(error.what, error.where, fix) from error

    @property
    def run(self) -> Run:
        return Run(config.run_dir(self.recipe), self.recipe)


class Judgement(NamedTuple):
    encoder: str  # as tools/evaluate.py takes it
    data: DataConfig  # what it is judged on: that of the recipe that asks for it
    seed: int
    out: Path
    evaluators: list[Evaluator]


def load(path: str, overrides: Sequence[str] = ()) -> Suite:
    """The suite in a file. Overrides of its own keys change it; all others change every recipe.

    Where recipes or evaluations are changed it is another suite: committed rows count for nothing in it, and other data
    have another folder.

    Raises:
        UserError: the file or a value is wrong. What no recipe knows is refused when the recipes are read.
    """
    own = {one.name for one in fields(Suite)}
    mine = [one for one in overrides if re.split("[.=]", one)[0] in own]
    suite = config.load_spec(Suite, path, mine)
    if {re.split("[.=]", one)[0] for one in mine} - {"seeds", "name", "results"}:
        suite = replace(suite, results=None)
    if others := tuple(one for one in overrides if one not in mine):
        said = dict(one.split("=", 1) for one in others if "=" in one)
        data = [Path(said[key]).resolve().stem for key in ("data.path", "data.labels") if said.get(key)]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([suite.name, *data]))
        suite = replace(suite, name=name, changes=(*suite.changes, *others), results=None)
    return suite


def pretrainings(suite: Suite) -> Iterator[Pretraining]:
    """One a recipe and seed, in the order that gives the first answers first: seed by seed.

    A supervised recipe is left out where the images have no labels that it could learn from.

    Raises:
        UserError: a recipe is wrong, or two of them share a name.
    """
    names: dict[str, str] = {}
    for seed in suite.seeds:
        for entry in suite.recipes:
            path, *own = shlex.split(entry)
            loaded = config.load(path, [*own, *suite.changes])
            if names.setdefault(loaded.name, entry) != entry:
                raise UserError(f"two recipes of the suite are named {loaded.name}", entry, "give each its own name=")
            source = catalog.open(loaded.data, "train")
            if not fitting.teaches(loaded, source):
                continue
            fitted = fitting.changes(suite.fit, loaded, source)
            place = [f"seed={seed}", f"run.dir={suite.folder / f'{loaded.name}-seed{seed}'}"]
            overrides = [*own, *fitted, *suite.changes, *place]
            recipe = config.resolved(config.load(path, overrides), catalog.input_size(source), source.channels)
            yield Pretraining(recipe, [*launcher(), "tools/pretrain.py", path, *overrides])


def launcher() -> list[str]:
    """`accelerate launch` of this environment: as the user has configured it, else a process for each GPU, or one."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if Path(default_config_file).exists():
        return command
    gpus = torch.cuda.device_count()
    several = ["--multi_gpu"] if gpus > 1 else []
    return [
        *command,
        *several,
        "--num_processes",
        str(max(1, gpus)),
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]


def evaluators(suite: Suite, judged: EvalData) -> tuple[list[Evaluator], list[Evaluator], list[Evaluator]]:
    """On all labels; linear heads on few; fine-tuning."""
    tune = suite.fine_tune
    few_labels: tuple[int | float, ...] = suite.few_label.n_labels
    tuned_labels: tuple[int | float | Literal["all"], ...] = tune.n_labels
    if suite.labels_per_class:
        few_labels = fitting.label_counts(suite.labels_per_class, judged)
        tuned_labels = few_labels[-1:]
    probes: list[Evaluator] = [KNN(), Linear()]
    cells = zip(few_labels, _draws(few_labels, suite.few_label.draws), strict=True)
    few: list[Evaluator] = [
        FewLabel(n_labels=tuple(n for n, _ in alike), draws=draws)
        for draws, alike in groupby(cells, key=lambda cell: cell[1])
    ]
    tuned: list[Evaluator] = [
        FineTune(
            n_labels=n,
            draws=draws,
            learning_rates=tune.learning_rates,
            steps=tune.steps,
            epochs=tune.epochs if n == "all" else None,
        )
        for n, draws in zip(tuned_labels, _draws(tuned_labels, tune.draws), strict=True)
    ]
    return probes, few, tuned


def judgements(suite: Suite, runs: Sequence[Pretraining], judged: EvalData) -> list[Judgement]:
    """Every method's encoder, the random encoder of every backbone (which, fine-tuned, is scratch), and raw pixels.

    The supervised reference has seen all labels, so its few-label cells stay empty.
    """
    probes, few, tuned = evaluators(suite, judged)
    asked: dict[Path, Judgement] = {
        suite.folder / "pixels": Judgement("pixels", runs[0].recipe.data, 0, suite.folder / "pixels", probes + few)
    }
    for run in runs:
        seed, data = run.recipe.seed, run.recipe.data
        out = suite.folder / f"random-{_fresh(run.recipe, [one.recipe for one in runs])}-seed{seed}"
        # asked for by the run, so that random and pretrained share architecture, input size and pooling
        asked.setdefault(out, Judgement(f"random:{run.run.folder}", data, seed, out, probes + few + tuned))
    for run in runs:
        wanted = probes if run.recipe.method.name == "supervised" else probes + few + tuned
        asked[run.run.folder] = Judgement(str(run.run.folder), run.recipe.data, run.recipe.seed, run.run.folder, wanted)
    return list(asked.values())


def current(known: Sequence[Row], runs: Sequence[Pretraining]) -> list[Row]:
    """Without the rows that a run of the same name had by another recipe; rows that name no recipe are taken at their
    word."""
    told = {run.run.folder.name: config.digest(run.recipe) for run in runs}
    return [
        row for row in known if row.record["pretrain"].get("recipe") in (None, told.get(row.run)) or row.run not in told
    ]


def undone(judgement: Judgement, known: Sequence[Row]) -> Judgement:
    """With those evaluators alone of which `known` has no row of this run, on as many labels; none of a run whose rows
    do not say what was asked for."""
    specs = [row.record.get("spec") for row in known if row.run == judgement.out.name]
    done = {_asked(spec) for spec in specs if spec}
    left = [] if None in specs else [x for x in judgement.evaluators if _asked(specification(x)) not in done]
    return judgement._replace(evaluators=left)


def _asked(spec: dict[str, Any]) -> tuple[str, str]:
    return spec["name"], json.dumps(spec.get("n_labels"))


def _fresh(recipe: Recipe, recipes: Sequence[Recipe]) -> str:
    """The name of a recipe's random encoder: its backbone's, with a recipe's where the suite has several by that name,
    of other arguments.

    Raises:
        UserError: another recipe has the same backbone and other features of it: one table has one random encoder.
    """

    def shown(one: Recipe) -> tuple[str, int]:
        return one.backbone.pooling, plan.input_size(one)

    namesakes = [one for one in recipes if one.backbone.name == recipe.backbone.name]
    alike = [one for one in namesakes if one.backbone.label == recipe.backbone.label]
    if other := next((one for one in alike if shown(one) != shown(recipe)), None):
        what = f"{recipe.name} and {other.name} have one backbone, and other pooling or sizes of images"
        raise UserError(what, recipe.backbone.label, "give each a suite of its own: a table has one random encoder")
    return recipe.backbone.name if alike == namesakes else f"{recipe.backbone.name}-{alike[0].name}"


def pretrain(one: Pretraining, then: str) -> None:
    """Run one pretraining to its end in a process of its own.

    Raises:
        UserError: its folder holds another recipe's run. SystemExit: it failed; what it said is on the screen.
    """
    one.check()
    if one.run.finished:
        return
    status = subprocess.run([*one.command, "--then", then], check=False).returncode
    if status:
        raise SystemExit(status)


def leave_recipe(one: Pretraining) -> None:
    """Its folder then says what a random encoder is to be built like, though the run itself is done elsewhere."""
    if not (one.run.folder / "recipe.yaml").exists():
        one.run.open()


def evaluate(judgement: Judgement, say: Callable[[str], None]) -> None:
    """Fill the rows of one encoder, in this process."""
    data = open_data(judgement.data)
    encoder = encoders.load(judgement.encoder, data, judgement.seed)
    named = replace(encoder.provenance, run=judgement.out.name)
    encoder = replace(encoder, out=judgement.out / "eval", provenance=named)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judge(encoder, shown(data, encoder.channels), judgement.evaluators, Context(device, seed=judgement.seed), say)
