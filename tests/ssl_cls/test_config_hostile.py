"""Hostile recipes and overrides: each is refused by one UserError that names file, line and key."""

from pathlib import Path

import pytest

from ssl_cls import config
from ssl_cls.errors import UserError

GOOD = """\
name: good
seed: 3
data: {source: digits, workers: auto}
backbone:
  name: resnet_small
  pooling: avg2x2
method:
  name: simclr
  temperature: 0.2
views:
  - {count: 2, size: 28, scale: [0.2, 1]}
optim:
  name: adamw
  lr: 1e-3
  betas: [0.9, 0.99]
  clip: {norm: 3, per: all}
train:
  epochs: 2
  batch_size: 256
  micro_batch_size: 64
health: {stop: false}
run: {keep: 3}
"""


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


def faults(path: Path, *overrides: str) -> list[str]:
    """The lines of the one UserError, without the folder."""
    with pytest.raises(UserError) as caught:
        config.load(path, overrides)
    assert caught.value.what
    assert caught.value.fix
    return [line.strip().replace(str(path), path.name) for line in caught.value.where.strip().splitlines()]


HOSTILE = [  # (what is replaced in GOOD, by what, the fault after "r.yaml:")
    ("seed: 3", "seeed: 3", "2: seeed: unknown key; did you mean seed?"),
    ("  temperature:", "  temprature:", "9: method.temprature: unknown key; did you mean temperature?"),
    ("count: 2,", "count: 2, coutn: 2,", "11: views.0.coutn: unknown key; did you mean count?"),
    ("{norm: 3,", "{norm: 3, nrom: 3,", "16: optim.clip.nrom: unknown key; did you mean norm?"),
    ("keep: 3", "qqqq: 3", "22: run.qqqq: unknown key; the keys here are dir, checkpoint_every_steps,"),
    ("seed: 3", "optim.lr: 3", "2: optim.lr: unknown key; did you mean optim?"),
    ("seed: 3", '"\\e[31m": 3', "2: '\\x1b[31m': unknown key"),
    ("seed: 3", "<<: {name: x}", "2: <<: unknown key"),
    ("name: good", "name: .hidden", "1: name: must be 1 to 100 of"),
    ("name: good", "name: a/../b", "1: name: must be 1 to 100 of"),
    ("name: good", 'name: "a\\n"', "1: name: must be 1 to 100 of"),
    ("name: good", "name: " + "a" * 101, "1: name: must be 1 to 100 of"),
    ("name: good", "name: 20", "1: name: must be text (got 20)"),
    ("seed: 3", "seed: -1", "2: seed: must be at least 0 (got -1)"),
    ("seed: 3", "seed: 4294967296", "2: seed: must be less than 4294967296 (got 4294967296)"),
    ("seed: 3", "seed: " + "9" * 5000, "2: seed: the number is too large"),
    ("seed: 3", "seed: true", "2: seed: must be a whole number (got true)"),
    ("seed: 3", "seed: '3'", '2: seed: must be a whole number (got "3")'),
    ("seed: 3", "seed: 3.0", "2: seed: must be a whole number (got 3.0)"),
    ("seed: 3", "seed:", "2: seed: must be a whole number (got null)"),
    ("seed: 3", "seed: 0x10", '2: seed: must be a whole number (got "0x10")'),
    ("digits,", "digit,", "3: data.source: must be one of fashion_mnist, digits, mnist,"),
    ("workers: auto", "workers: -2", "3: data.workers: must be at least 0 or auto (got -2)"),
    ("workers: auto", "workers: many", '3: data.workers: must be a whole number or auto (got "many")'),
    ("workers: auto", "max_bad_fraction: 2", "3: data.max_bad_fraction: must be at most 1 (got 2)"),
    ("{source: digits, workers: auto}", "digits", "3: data: must be a mapping, with keys such as source,"),
    ("  pooling: avg2x2", "  pooling: avg2x3", "6: backbone.pooling: must be avg, avg2x2"),
    ("  pooling: avg2x2", "  args: [1]", "6: backbone.args: must be a mapping of keys (got a list)"),
    ("  pooling: avg2x2", '  pooling: "a\\0"', "6: backbone.pooling: the text has characters"),
    ("  pooling: avg2x2", '  pooling: "\\ud800"', "6: backbone.pooling: the text has characters"),
    ("  name: simclr", "  name: simcrl", "8: method.name: must be one of simclr, "),
    ("  name: simclr", "  name: [simclr]", "8: method.name: must be one of simclr, "),
    ("  name: simclr\n", "", "7: method.name: missing; it is one of simclr, "),
    ("temperature: 0.2", "temperature: 0", "9: method.temperature: must be greater than 0 (got 0)"),
    ("temperature: 0.2", "projector: [512, 0]", "9: method.projector.1: must be greater than 0 (got 0)"),
    ("temperature: 0.2", "projector: 512", "9: method.projector: must be a list (got 512)"),
    ("count: 2", "count: 3", "10: views: SimCLR needs exactly two global views"),
    ("count: 2", "kind: globl", '11: views.0.kind: must be one of global, local (got "globl")'),
    ("scale: [0.2, 1]", "scale: [1, 0.2]", "11: views.0.scale: must be 0 < low <= high <= 1, not [1.0, 0.2]"),
    ("scale: [0.2, 1]", "scale: [1]", "11: views.0.scale: is too short"),
    ("scale: [0.2, 1]", "scale: [0, 1, 1]", "11: views.0.scale: has 3 entries where 2 are allowed"),
    ("scale: [0.2, 1]", "hue: 0.6", "11: views.0.hue: must be at most 0.5 (got 0.6)"),
    ("scale: [0.2, 1]", "flip: yes", '11: views.0.flip: must be a number (got "yes")'),
    ("  - {count: 2,", "  - 3\n  - {count: 2,", "11: views.0: must be a mapping"),
    ("  name: adamw", "  name: adam", '13: optim.name: must be one of adamw, sgd, lars (got "adam")'),
    ("lr: 1e-3", "weight_decay: 0", "12: optim: give lr, or base_lr"),
    ("lr: 1e-3", "lr: 1e-3\n  base_lr: 1e-3", "12: optim: give lr, or base_lr"),
    ("lr: 1e-3", "lr: .nan", '14: optim.lr: must be a number (got ".nan")'),
    ("lr: 1e-3", "lr: 1e999", "14: optim.lr: the number is too large"),
    ("lr: 1e-3", "lr: 1e-3\n  lr: 1e-4", "15: optim.lr: written twice (first at r.yaml:14)"),
    ("lr: 1e-3", "lr: !!float 3", "14: tags are not read in recipes (got tag:yaml.org,2002:float)"),
    ("lr: 1e-3", "lr: !!python/object/apply:os.getcwd []", "14: tags are not read in recipes"),
    ("lr: 1e-3", "lr: &a 1e-3\n  base_lr: *a", "14: anchors (&) and aliases (*) are not read in recipes"),
    ("lr: 1e-3", "\tlr: 1e-3", "14: a tab; YAML is indented with spaces"),
    ("lr: 1e-3", "lr: [1", "15: "),
    ("lr: 1e-3", "? [lr]\n  : 1e-3\n  lr: 1", "14: optim: a key must be a single word"),
    ("lr: 1e-3", "lr: \x07", "14: YAML does not allow the character U+0007"),
    ("norm: 3", "norm: 0", "16: optim.clip.norm: must be greater than 0 (got 0)"),
    ("per: all", "per: each", "16: optim.clip.per: must be one of all, tensor"),
    ("  epochs: 2\n", "", "17: train.epochs: missing"),
    ("epochs: 2", "epochs: 0", "18: train.epochs: must be greater than 0 (got 0)"),
    (
        "micro_batch_size: 64",
        "micro_batch_size: 60",
        "20: train.micro_batch_size: must divide batch_size 256",
    ),
    ("micro_batch_size: 64", "precision: fp16", "20: train.precision: must be one of auto, fp32, bf16"),
    ("stop: false", "stop: no", '21: health.stop: must be true or false (got "no")'),
    ("stop: false", "stop: 0", "21: health.stop: must be true or false (got 0)"),
    ("keep: 3", "keep: 1", "22: run.keep: must be at least 2 (got 1)"),
    ("keep: 3", "dir: ''", "22: run.dir: must not be empty"),
    ("keep: 3", "dir: " + "[" * 100, "22: nested more than 16 deep"),
    ("run: {keep: 3}", "---\nname: two", "22: but found another document"),
    (GOOD, "", "1: must be a mapping of keys"),
    (GOOD, "- name: x", "1: must be a mapping of keys"),
    (GOOD, "just words", "1: must be a mapping of keys"),
]


@pytest.mark.parametrize(("old", "new", "fault"), HOSTILE, ids=[fault[:50] for _, _, fault in HOSTILE])
def test_hostile_recipe_is_refused_with_line_and_key(write, old, new, fault):
    assert GOOD.count(old) == 1
    found = faults(write(GOOD.replace(old, new)))
    assert len(found) == 1, found
    assert found[0].startswith(f"r.yaml:{fault}")


HOSTILE_OVERRIDES = [
    ("optim.lrr=3", "override 2: optim.lrr: unknown key; did you mean lr?"),
    ("otpim.lr=3", "override 2: otpim: unknown key; did you mean optim?"),
    ("--seed=3", "override 2: --seed: unknown key; did you mean seed?"),
    ("views.0.hue=2", "override 2: views.0.hue: must be at most 0.5 (got 2)"),
    ("views.1.count=2", "override 2: views.1.count: views has 1 entries, counted from 0, and no '1'"),
    ("views.-1.count=2", "override 2: views.-1.count: views has 1 entries"),
    ("views.first.count=2", "override 2: views.first.count: views has 1 entries"),
    ("seed.value=2", "override 2: seed.value: seed is a single value"),
    ("health.checks.0=2", "override 2: health.checks.0: health.checks has no entries to change"),
    ("method.name=mea", "override 2: method.name: must be one of simclr, "),
    ("train.epochs=null", "override 2: train.epochs: must be a number (got null)"),
    ("optim.clip={per: all}", "override 2: optim.clip.norm: missing"),
    ("optim.lr=[1", "override 2: optim.lr: "),
    ("optim.lr=", "override 2: optim.lr: no value after the equals sign"),
    ("run.dir=#x", "override 2: run.dir: no value after the equals sign"),
    ("optim={lr: 1, lr: 2}", "override 2: optim.lr: written twice"),
    ("optim", "override 2: 'optim' is not of the form key.path=value"),
    ("optim..lr=3", "override 2: 'optim..lr=3' is not of the form key.path=value"),
    ("=3", "override 2: '=3' is not of the form key.path=value"),
    (".".join("a" * 5000) + "=3", "override 2: 'a.a."),
]


@pytest.mark.parametrize(("override", "fault"), HOSTILE_OVERRIDES, ids=[text[:30] for text, _ in HOSTILE_OVERRIDES])
def test_hostile_override_is_refused_by_number_and_key(good, override, fault):
    found = faults(good, "seed=1", override)
    assert len(found) == 1, found
    assert found[0].startswith(fault)


def test_a_wrong_method_is_shown_with_the_nearest(good):
    assert faults(good, "method.name=mea")[0].endswith('(got "mea"); did you mean mae?')


def test_a_change_of_method_names_the_keys_of_the_old_one(good):
    assert faults(good, "method.name=supervised") == [
        "r.yaml:9: method.temperature: unknown key; the keys here are name, label_smoothing",
    ]
    assert faults(good, "method={name: supervised}") == [
        "r.yaml:10: views: supervised training takes exactly one global view"
    ]


def test_all_faults_are_reported_at_once_in_reading_order(write):
    starts = ("1: name: must be text", "2: seed: must be at least", "3: data.workers: must be at least")
    starts += (
        "10: views: SimCLR",
        "13: optim.name",
        "14: optim.lr: the number",
        "20: train.micro_batch_size",
    )
    starts += ("21: health.stop: must be true or false (got 0)", "22: run.keep")
    chosen = [case for case in HOSTILE if case[2].startswith(starts)]
    text = GOOD
    for old, new, _ in chosen:
        text = text.replace(old, new)
    expected = [f"r.yaml:{start}" for start in starts] + ["override 1: train.epochz: unknown key"]
    for fault, start in zip(faults(write(text), "train.epochz=1"), expected, strict=True):
        assert fault.startswith(start)


def test_a_flood_of_faults_fits_on_a_screen(write):
    found = faults(write("".join(f"key{number}: 1\n" for number in range(2000))))
    assert len(found) == config.MAX_SHOWN


class TestFiles:
    def test_missing_names_the_nearest(self, good):
        with pytest.raises(UserError, match="no such recipe") as caught:
            config.load(good.with_name("rr.yaml"))
        assert str(good) in caught.value.fix

    def test_directory_lists_its_recipes(self, good):
        with pytest.raises(UserError, match="a directory") as caught:
            config.load(good.parent)
        assert str(good) in caught.value.fix

    def test_not_utf8_names_the_line(self, write):
        path = write(b"name: x\n# caf\xe9\n")
        with pytest.raises(UserError, match="not UTF-8") as caught:
            config.load(path)
        assert caught.value.where == f"{path}:2"

    def test_a_megabyte_is_not_a_recipe(self, write):
        with pytest.raises(UserError, match="more than 100,000 bytes"):
            config.load(write("#" * 1_000_001))

    def test_unreadable(self, tmp_path):
        loop = tmp_path / "loop.yaml"
        loop.symlink_to(loop)
        for path in (loop, "a\0b.yaml"):
            with pytest.raises(UserError, match="cannot be read"):
                config.load(path)

    def test_byte_order_mark_and_windows_lines(self, write):
        assert config.load(write(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())).seed == 3
