"""Good recipes: what they read as, what is written back, and what makes two of them the same run."""

import dataclasses
import json
import typing
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_config_hostile import GOOD

from ssl_cls import config
from ssl_cls.augment.view import View
from ssl_cls.config import Recipe
from ssl_cls.data import catalog
from ssl_cls.methods.byol import BYOLConfig
from ssl_cls.methods.simsiam import SimSiamConfig


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "r.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return path

    return write


@pytest.fixture
def good(write) -> Path:
    return write(GOOD)


def test_numbers_and_words_of_yaml_1_2(write):
    text = GOOD.replace("lr: 1e-3", "lr: 3e4").replace("resnet_small", "off").replace("keep: 3", "dir: 12:30:00")
    args = "  args: {a: no, b: 1_0, c: 010, d: .5, e: 2020-01-01}"
    recipe = config.load(write(text.replace("  pooling: avg2x2", args)))
    assert recipe.optim.lr == 30000.0
    assert (recipe.backbone.name, recipe.run.dir) == ("off", "12:30:00")
    assert recipe.backbone.args == {"a": "no", "b": "1_0", "c": 10, "d": 0.5, "e": "2020-01-01"}


def test_overrides(good):
    overrides = [
        "seed=4",
        "seed=5",
        "views.0.scale=[.5, 1]",
        "optim.lr=3e-2",
        "data.path=a=b",
        "run={dir: no}",
    ]
    recipe = config.load(good, overrides)
    assert recipe.seed == 5  # the later one wins
    assert recipe.views == (View(count=2, size=28, scale=(0.5, 1.0)),)
    assert (recipe.optim.lr, recipe.data.path) == (0.03, "a=b")
    assert (recipe.run.dir, recipe.run.keep) == ("no", 2)  # the mapping is replaced, not merged
    clip = config.load(good, ["optim.clip=null", "optim.clip.norm=7"]).optim.clip
    assert clip is not None
    assert clip.norm == 7


def test_what_a_recipe_leaves_out(write):
    required = "name: m\nbackbone: {name: x}\nmethod: {name: mae}\noptim: {lr: 1}\n"
    recipe = config.load(write(required + "train: {epochs: 1, batch_size: 2}"))
    assert (recipe.seed, recipe.views, recipe.data.source, recipe.run.keep) == (0, None, "fashion_mnist", 2)


TRICKY = ["no", "true", "null", "~", "", "1e3", "1.", ".5", "0x1f", "1_000", "12:30", "2020-01-01", "é", "😀"]
TRICKY += ["=", "<<", "*a", "&b", "!c", "#e", "- d", "f: g", "'", '"', "{", "-", "%", "@", " h", "i ", "\tj"]
TRICKY += ["k\nl\n", "\x85", "\u2028", "\ufeff", "\x1b"]
words = st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


finite = st.floats(allow_nan=False, allow_infinity=False)


positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


leaves = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | finite | words


values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1), path=st.none() | words, folder=st.none() | words.filter(bool),
    args=st.none() | st.dictionaries(words, values, max_size=3), lr=positive, epochs=positive,
    low=st.floats(0, 1, exclude_min=True), stop=st.booleans(), workers=st.integers(0, 99) | st.just("auto"),
)  # fmt: skip
def test_round_trip(tmp_path, write, seed, path, folder, args, lr, epochs, low, stop, workers):
    base = config.load(write(GOOD))
    recipe = dataclasses.replace(
        base,
        seed=seed,
        data=dataclasses.replace(base.data, path=path, workers=workers),
        backbone=dataclasses.replace(base.backbone, args=args),
        views=(View(count=2, scale=(low, 1.0)),),
        optim=dataclasses.replace(base.optim, lr=lr),
        train=dataclasses.replace(base.train, epochs=epochs),
        health=dataclasses.replace(base.health, stop=stop),
        run=dataclasses.replace(base.run, dir=folder),
    )
    text = config.dump(recipe)
    again = config.load(write(text))
    assert again == recipe
    assert config.identity(again) == config.identity(recipe)
    assert config.dump(again) == text
    assert yaml.safe_load(text) == json.loads(json.dumps(dataclasses.asdict(recipe)))  # YAML 1.1 readers agree


def test_identity_is_what_decides_the_result(good):
    base = config.load(good)
    same = ["run.dir=x", "run.keep=9", "run.log_every_steps=1", "health.stop=true", "data.workers=7"]
    assert config.identity(config.load(good, same)) == config.identity(base)
    assert config.diff(base, config.load(good, same)) == []
    changes = [
        "name=b",
        "seed=4",
        "data.path=x",
        "data.max_bad_fraction=1",
        "backbone.args={a: 1}",
        "method.temperature=1",
    ]
    changes += [
        "views.0.hue=.1",
        "optim.betas=[0, 0]",
        "optim.clip.per=tensor",
        "train.epochs=1",
        "train.precision=fp32",
    ]
    found = [config.identity(config.load(good, [change])) for change in ["name=a", *changes]]
    assert all(one != other for one, other in combinations(found, 2))


def test_the_digest_is_of_what_is_learned_and_of_no_default(good, write):
    base = config.load(good)
    same = ["name=b", "seed=4", "data.path=x", "data.workers=7", "run.dir=x", "health.stop=true", "optim.min_lr=0"]
    assert config.digest(config.load(good, same)) == config.digest(base)
    assert config.digest(config.load(write(config.dump(base)))) == config.digest(base)
    changes = ["method.temperature=1", "views.0.hue=.1", "optim.clip.per=tensor", "train.epochs=1", "data.size=20"]
    found = [config.digest(config.load(good, [change])) for change in ["name=a", *changes]]
    assert len(set(found)) == len(found)
    byol, simsiam = (dataclasses.replace(base, method=method()) for method in (BYOLConfig, SimSiamConfig))
    assert config.digest(byol) != config.digest(simsiam)  # though both have nothing but defaults


def test_identity_of_a_recipe_built_in_python_is_that_of_its_yaml(good, write):
    built = dataclasses.replace(config.load(good), views=(View(count=2, rotate=10),))  # an int where YAML gives 10.0
    assert config.identity(config.load(write(config.dump(built)))) == config.identity(built)


def test_diff_names_each_value(good):
    old, new = (
        config.load(good),
        config.load(good, ["seed=4", "optim.clip=null", "method.projector=[512, 64, 9]"]),
    )
    assert config.diff(old, new) == [
        "seed: 3 -> 4",
        "method.projector.1: 128 -> 64",
        "optim.clip.norm: 3.0 -> (absent)",
        'optim.clip.per: "all" -> (absent)',
        "method.projector.2: (absent) -> 9",
        "optim.clip: (absent) -> null",
    ]


def test_resolved_leaves_nothing_to_the_data(good, write):
    recipe = dataclasses.replace(config.load(good), views=None)
    for size, side in ((8, 28), (28, 28), (96, 96)):
        complete = config.resolved(recipe, size, 3)
        assert complete.views is not None
        defaults = catalog.fitting(recipe.data.source, recipe.method.views(side, 3))
        assert complete.views == tuple(dataclasses.replace(view, size=view.size or side) for view in defaults)
        assert config.resolved(complete, 64, 1) == complete == config.load(write(config.dump(complete)))
    given_sizes = dataclasses.replace(recipe, views=(View(size=20), View()))
    assert [view.size for view in config.resolved(given_sizes, 40, 1).views or ()] == [20, 40]


def test_run_dir(good):
    assert config.run_dir(config.load(good)) == Path("runs/good-seed3")
    assert config.run_dir(config.load(good, ["run.dir=/x/y"])) == Path("/x/y")


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_recipe_is_named_after_its_file_and_fits_its_method(path):
    recipe = config.load(path)
    assert recipe.name == path.stem
    complete = config.resolved(recipe, 28, 1)
    assert complete.views is not None
    assert complete.method.check_views(complete.views) is None


def surface(annotation: object, section: str = "recipe") -> dict[str, str]:
    """The keys of each section that a recipe may have; a section of a union is named after its `name`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return surface(typing.get_args(annotation)[0], section)
    if not dataclasses.is_dataclass(annotation):
        arms = [surface(arm, section) for arm in typing.get_args(annotation)]
        return {name: keys for arm in arms for name, keys in arm.items()}
    section = f"method={annotation.name}" if section == "method" else section
    hints = typing.get_type_hints(annotation, include_extras=True)
    names = [field.name for field in dataclasses.fields(annotation)]
    inner = [surface(hints[name], name) for name in names]
    return {section: " ".join(names)} | {name: keys for found in inner for name, keys in found.items()}


SURFACE = {
    "recipe": "name seed data backbone method views optim train health run",
    "data": "source path workers max_bad_fraction labels window size",
    "backbone": "name pooling args input_size",
    "method=simclr": "name temperature projector",
    "method=moco": "name temperature momentum queue projector symmetric norm_splits",
    "method=mocov3": "name temperature momentum projector predictor_dim",
    "method=byol": "name momentum projector predictor",
    "method=simsiam": "name projector predictor",
    "method=dino": "name head student_temperature teacher_temperature centre_momentum momentum "
    "freeze_prototypes_epochs",
    "head": "hidden_dim bottleneck_dim prototypes norm_last_layer",
    "teacher_temperature": "start end warmup_epochs",
    "method=dinov2": "name head patch_head centering student_temperature teacher_temperature centre_momentum momentum "
    "freeze_prototypes_epochs mask_ratio patch_weight koleo_weight layer_decay patch_embed_lr",
    "patch_head": "hidden_dim bottleneck_dim prototypes norm_last_layer",
    "method=mae": "name mask_ratio decoder_dim decoder_depth decoder_heads norm_pixels",
    "method=supervised": "name label_smoothing",
    "views": "kind count size scale ratio interpolation pad rotate flip brightness contrast saturation hue "
    "jitter_p gray blur blur_sigma solarize",
    "optim": "name lr base_lr weight_decay final_weight_decay warmup_epochs min_lr momentum betas trust_coefficient "
    "trust_clip clip",
    "clip": "norm per",
    "train": "epochs batch_size micro_batch_size precision deterministic",
    "health": "stop",
    "run": "dir checkpoint_every_steps keep log_every_steps timeout_seconds",
}


def test_config_surface_is_frozen():
    """A new key is a promise to every recipe ever saved: this list grows by a reviewed edit only."""
    assert surface(Recipe) == SURFACE
