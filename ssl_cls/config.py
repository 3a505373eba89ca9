"""A recipe: what a run is. YAML and overrides in, checked as a whole; the complete YAML out; its identity.

The union `MethodConfig` is the registry of methods. This is the only module that knows pydantic.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, MISSING, asdict, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from annotated_types import Ge, Lt, MinLen
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, ValidationInfo

from ssl_cls.augment.view import View
from ssl_cls.backbone import BackboneConfig
from ssl_cls.data.catalog import DataConfig, fitting
from ssl_cls.errors import UserError
from ssl_cls.methods.byol import BYOLConfig
from ssl_cls.methods.dino import DINOConfig
from ssl_cls.methods.dinov2 import DINOv2Config
from ssl_cls.methods.mae import MAEConfig
from ssl_cls.methods.moco import MoCoConfig
from ssl_cls.methods.mocov3 import MoCoV3Config
from ssl_cls.methods.simclr import SimCLRConfig
from ssl_cls.methods.simsiam import SimSiamConfig
from ssl_cls.methods.supervised import SupervisedConfig
from ssl_cls.optim import OptimConfig
from ssl_cls.recipe_errors import explain
from ssl_cls.spec import Count, Positive, spec
from ssl_cls.yaml_document import Document, Dumper, KeyPath, Problem, dotted

MAX_BYTES = 100_000
MAX_SHOWN = 25
MIN_SIDE = 28  # smaller images are enlarged to this side: encoders for small images are made for it

MethodConfig = Annotated[
    SimCLRConfig
    | MoCoConfig
    | MoCoV3Config
    | BYOLConfig
    | SimSiamConfig
    | MAEConfig
    | DINOConfig
    | DINOv2Config
    | SupervisedConfig,
    Field(discriminator="name"),
]


def _slug(name: str) -> str:
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,100}", name):
        raise ValueError(f"must be 1 to 100 of A-Z a-z 0-9 . _ - and not begin with a dot (got {name[:60]!a})")
    return name


def _divides_batch(micro_batch_size: int | None, info: ValidationInfo) -> int | None:
    batch_size = info.data.get("batch_size")
    if micro_batch_size and batch_size and batch_size % micro_batch_size:
        raise ValueError(f"must divide batch_size {batch_size} (got {micro_batch_size})")
    return micro_batch_size


def _fit_method(views: tuple[View, ...] | None, info: ValidationInfo) -> tuple[View, ...] | None:
    method = info.data.get("method")
    if views is not None and method is not None and (complaint := method.check_views(views)):
        raise ValueError(complaint)
    return views


@spec
class TrainConfig:
    epochs: Positive  # passes over the training images; a fraction is allowed
    batch_size: Count  # images a step, over all ranks and micro-batches
    # images that one process passes forward and backward at a time; None: all of its share
    micro_batch_size: Annotated[Count | None, AfterValidator(_divides_batch)] = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    deterministic: bool = False  # on CUDA: only kernels that give the same bits each time


@spec
class HealthConfig:
    stop: bool = False  # end a run that has collapsed or does not learn, instead of saying so at its end


@spec
class RunConfig:
    dir: Annotated[str, MinLen(1)] | None = None  # None: runs/<name>-seed<seed>
    checkpoint_every_steps: Count = 200
    keep: Annotated[int, Ge(2)] = 2  # checkpoints; two, so that one damaged file never ends a run
    log_every_steps: Count = 10
    timeout_seconds: Positive = 600.0  # how long ranks wait for one that does not answer


@spec
class Recipe:
    _: KW_ONLY
    name: Annotated[str, AfterValidator(_slug)]
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0  # the range that NumPy and scikit-learn accept
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig
    method: MethodConfig
    views: Annotated[tuple[View, ...] | None, AfterValidator(_fit_method)] = None  # None: the method's own
    optim: OptimConfig
    train: TrainConfig
    health: HealthConfig = field(default_factory=HealthConfig)
    run: RunConfig = field(default_factory=RunConfig)


T = TypeVar("T")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; see `parse`."""
    return parse(Recipe, _read(Path(path)), str(path), overrides)


def load_spec(kind: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read a file that is another spec, as strictly as a recipe; see `parse`."""
    return parse(kind, _read(Path(path)), str(path), overrides)


def parse(kind: type[T], text: str, name: str, overrides: Sequence[str] = ()) -> T:
    """The spec that YAML `text` says, with `key.path=value` overrides in order (a later one wins), checked as a whole.

    Raises:
        UserError: the file cannot be read, or the recipe is wrong. Every fault is listed: file and line (or
            number of the override), key path, what is wrong, and the nearest valid key or name.
    """
    document = Document(text, lambda line: f"{name}:{line}")
    for number, override in enumerate(overrides, 1):
        document.override(f"override {number}", override)
    problems = list(document.problems)
    if isinstance(document.data, dict):
        try:
            checked = _checked(kind, document.data)
        except ValidationError as error:
            shown = error.errors(include_url=False)[: 2 * MAX_SHOWN]
            for key, message in explain(shown, kind, document.data):
                # What could not be read was left empty: what follows from that is no fault of its own.
                if not any(known.path[: len(key)] == key for known in document.problems):
                    problems.append(Problem(document.place(key), key, message))
        else:
            if not problems:
                return checked
    raise _refusal(problems, f"the {kind.__name__.lower()}")


def _refusal(problems: list[Problem], subject: str) -> UserError:
    lines = [str(problem) for problem in sorted(problems, key=_reading_order)[:MAX_SHOWN]]
    what = f"{subject} is wrong" if len(lines) == 1 else f"{subject} is wrong in {len(lines)} places"
    if len(problems) > MAX_SHOWN:
        what = f"{subject} is wrong in more than {MAX_SHOWN} places"
    where = lines[0] if len(lines) == 1 else "".join(f"\n    {line}" for line in lines)
    return UserError(what, where, "correct the recipe or the command line; nothing was started")


def _reading_order(problem: Problem) -> tuple[bool, int]:
    return problem.place.startswith("override "), int(re.findall(r"\d+", problem.place)[-1])


def _checked(kind: type[T], raw: dict[str, Any]) -> T:
    """JSON mode, so that lists may become tuples while `true` and "1" stay what they are."""
    return TypeAdapter(kind).validate_json(json.dumps(raw))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError("no such recipe", str(path), _nearest(path)) from None
    except IsADirectoryError:
        raise UserError("a directory, not a recipe file", str(path), _nearest(path / "recipe.yaml")) from None
    except (OSError, ValueError) as error:
        raise UserError(f"the recipe cannot be read: {error}", str(path), "check its permissions") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"more than {MAX_BYTES:,} bytes, so no recipe", str(path), "give a recipe .yaml file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError("not UTF-8 text", f"{path}:{line}", "save the file as UTF-8") from None


def _nearest(path: Path) -> str:
    """A fix that names the recipes closest to what was asked for."""
    folders = path.parent, Path("recipes")
    files = list(dict.fromkeys(file for folder in folders for file in sorted(folder.glob("*.yaml"))))
    near = difflib.get_close_matches(path.stem, {file.stem for file in files}, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(str(file) for file in files if file.stem in near)}?"
    return f"there are {', '.join(map(str, files[:8]))}" if files else "give the path of a recipe .yaml file"


def resolved(recipe: Recipe, size: int, channels: int) -> Recipe:
    """The recipe with nothing left to a default that the data decide: views, and every view's size.

    Args:
        size: side of the data's images in pixels; views without a size get data.size, else this, or 28 if it is
            smaller.
        channels: of the data; one-channel images need no colour augmentation.
    """
    side = recipe.data.size or max(size, MIN_SIDE)
    views = fitting(recipe.data.source, recipe.method.views(side, channels)) if recipe.views is None else recipe.views
    sized = tuple(view if view.size else replace(view, size=side) for view in views)
    return _checked(Recipe, asdict(replace(recipe, views=sized)))


def dump(recipe: Recipe) -> str:
    """The whole recipe as YAML, which `load` reads back equal."""
    plain = json.loads(json.dumps(asdict(recipe)))  # tuples become lists
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=110)


def identity(recipe: Recipe) -> dict[str, Any]:
    """What makes two runs the same: everything but `run`, `health`, `data.workers`; JSON types only."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(_checked(Recipe, asdict(recipe)))))
    del plain["run"], plain["health"], plain["data"]["workers"]
    return plain


def digest(recipe: Recipe) -> str:
    """SHA-256 of all that a recipe says of what is learned: neither its name, seed and places, nor what every recipe
    would have that does not say so, so that a key that is added later changes no digest."""
    data = replace(recipe.data, path=None, labels=None, workers="auto")
    plain = replace(recipe, name="any", seed=0, data=data, health=HealthConfig(), run=RunConfig())
    told = _told(_checked(Recipe, asdict(plain)))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _told(value: Any) -> Any:
    """Specs as dictionaries of what differs from its default, and names, which say what the others mean."""
    if is_dataclass(value):
        given = {one: getattr(value, one.name) for one in fields(value)}
        return {one.name: _told(own) for one, own in given.items() if one.name == "name" or own != _default(one)}
    return [_told(one) for one in value] if isinstance(value, (list, tuple)) else value


def _default(of: Any) -> Any:
    return of.default_factory() if of.default_factory is not MISSING else of.default


def diff(old: Recipe, new: Recipe) -> list[str]:
    """One line "key.path: old -> new" for each value in which the identities differ; [] if they agree."""
    before, after = dict(_leaves(identity(old), ())), dict(_leaves(identity(new), ()))
    absent = "(absent)"
    return [
        f"{dotted(path)}: {before.get(path, absent)} -> {after.get(path, absent)}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path, absent) != after.get(path, absent)
    ]


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, (dict, list)) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, json.dumps(value)


def run_dir(recipe: Recipe) -> Path:
    """`run.dir`, or runs/<name>-seed<seed> under the current directory."""
    return Path(recipe.run.dir or f"runs/{recipe.name}-seed{recipe.seed}")
