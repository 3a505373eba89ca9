"""The report in a real browser: it renders, is silent on the console, asks for nothing, fits a phone."""

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.comparison import published
from eval.comparison.compare import compare
from eval.comparison.rows import collect
from eval.report import checks, report
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import all_labels

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]

RECIPE = """
name: small
data: {source: digits}
backbone: {name: resnet_small}
method: {name: simclr}
optim: {name: adamw, lr: 0.001}
train: {epochs: 1, batch_size: 64}
"""
# dots of 6 columns, 2 panels of label efficiency, 2 of cost, loss and effective rank, 2 confusion matrices
NUM_DRAWINGS = 6 + 2 + 2 + 2 + 2

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


class Browser:
    """Chromium's DevTools protocol over its pipe: JSON messages with a zero byte after each."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        assert program, "these tests need chromium: apt-get install chromium"
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        # the protocol wants descriptors 3 and 4
        script = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        command = ["bash", "-c", script, "bash", program, *FLAGS, f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.out, self.answers = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb")
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params} | (
            {"sessionId": self.session} if self.session else {}
        )
        self.out.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait_for(self, event: str) -> None:
        while not any(seen.get("method") == event for seen in self.events):
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "chromium has gone"
            data += byte
        return json.loads(data)

    def evaluate(self, expression: str) -> Any:
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self.ask("Browser.close")
        self.process.wait(timeout=30)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


@pytest.fixture
def page(tmp_path: Path, synthetic_run: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seeds of a method with a hostile name and of its baselines on the digits, with all that can be drawn."""
    monkeypatch.setattr(checks, "_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    hostile = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    labels = np.asarray(all_labels(catalog.open(DataConfig(source="digits"), "test")))
    cells = [("knn/v1", None, None), ("linear/v1", None, None)]
    cells += [(name, n, 0) for name in ("fewlabel/v1", "finetune/v1") for n in (10, 100)]
    runs = []
    for seed in range(3):
        for name, method, images in ((hostile, "simclr", 1000), ("random", "random", 0)):
            results = [
                {"evaluator": evaluator, "n_labels": n, "draw": draw, "correct": rng.random(len(labels)) < 0.8}
                for evaluator, n, draw in cells
            ]
            pretrain = {"dataset": "digits/train", "images_seen": images, "view_forwards": 2 * images}
            told = {"seed": seed, "run": name, "pretrain": pretrain, "seconds": 60.0 if images else None}
            runs.append(synthetic_run(f"{method}{seed}", method, results, labels=labels, **told))
        logged = [{"epoch": x / 10, "loss": 1 / (1 + x), "effective_rank": x} for x in range(50)]
        (runs[-2] / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in logged))
        (runs[-2] / "recipe.yaml").write_text(RECIPE)
    groups = compare(collect(runs))
    beside = published.load("cifar10")
    return report.write(groups, ["compare"], tmp_path / "out", checks.run(groups), beside)[-1]


def assert_silent(browser: Browser, page: Path) -> None:
    """Nothing was asked for but the page, and nothing was said on the console."""
    requested = [
        x["params"]["request"]["url"] for x in browser.events if x.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in requested if not url.startswith("data:")] == [page.as_uri()]
    spoken = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert not [x for x in browser.events if x.get("method") in spoken]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_renders_alone(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.ask("Page.navigate", url=page.as_uri())
    browser.wait_for("Page.loadEventFired")

    assert browser.evaluate("document.title").startswith("Comparison: digits")  # and no script of a name has run
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width  # only the tables scroll sideways
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(x => x.getBoundingClientRect().height > 60)")
    assert browser.evaluate("document.querySelectorAll('svg').length") == NUM_DRAWINGS
    drawn = "[...document.querySelectorAll('svg')].every(x => x.querySelectorAll('path,rect,circle').length > 4)"
    assert browser.evaluate(drawn)
    assert browser.evaluate("document.images.length") > 12  # mistakes and views
    coloured = "[...document.querySelectorAll('svg *')].every(x => !/var\\(/.test(getComputedStyle(x).fill))"
    assert browser.evaluate(coloured)
    assert "Leakage check: of 359 test images" in browser.evaluate("document.body.innerText")
    assert browser.evaluate("[...document.images].every(x => x.complete && x.naturalWidth > 0)")

    assert_silent(browser, page)
    browser.evaluate("document.querySelectorAll('details').forEach(x => { x.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width  # published rows, recipes and hashes too

    picture = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(browser.ask("Page.captureScreenshot")["data"]))).convert("L")
    )
    assert (np.median(picture) > 200) == (scheme == "light")
    assert picture.std() > 10  # something is drawn on it


CLASSES = ["<img src=x onerror=document.title='owned'>", "'\"&amp; cats"]
SUITE = """
name: real
recipes: [simclr.yaml, mae.yaml]
few_label: {n_labels: [10, 20], draws: 1}
fine_tune: {n_labels: [10, 20], draws: 1, learning_rates: [1.0e-3], steps: 3}
"""
COMMON = """
data: {source: folder, path: pictures, size: 28, workers: 0}
optim: {name: adamw, lr: 0.001}
train: {epochs: 2, batch_size: 32}
"""
SIMCLR = "name: simclr\nbackbone: {name: resnet_small, args: {channels: [8, 16]}}\nmethod: {name: simclr}" + COMMON
MAE = (
    "name: mae\nmethod: {name: mae, decoder_dim: 16, decoder_depth: 1, decoder_heads: 2}\nbackbone: {name: "
    "vit_tiny_patch16_224, args: {patch_size: 7, embed_dim: 16, depth: 1, num_heads: 2}}" + COMMON
)
HEADINGS = [
    "At a glance", "How many labels it saves", "The table", "Paired differences", "What it costs", "Training",
    "What is taken for what", "The mistakes it keeps making", "Where it looks", "What it finds alike",
    "The feature space, flattened", "What the methods saw", "What MAE fills in", "Making this again",
]  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite's page on own images of classes with hostile names, one of which is in train and in test."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for split, count in (("train", 80), ("val", 20), ("test", 20)):
            place = folder / "pictures" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3)) // (1 + label)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    shutil.copy(place / "0.png", folder / "pictures" / "train" / name / "0.png")
    for file, text in (("real.yaml", SUITE), ("simclr.yaml", SIMCLR), ("mae.yaml", MAE)):
        (folder / file).write_text(text)
    (folder / "tools").symlink_to(ROOT / "tools")
    command = [sys.executable, "tools/suite.py", "real.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "real" / "index.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_all_that_real_runs_leave_is_drawn_and_hostile_class_names_are_text(
    browser: Browser, real: Path, width: int
) -> None:
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.ask("Page.navigate", url=real.as_uri())
    browser.wait_for("Page.loadEventFired")
    browser.evaluate("document.querySelectorAll('details').forEach(x => { x.open = true })")
    assert browser.evaluate("document.title").startswith("Comparison")
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    said = browser.evaluate("document.body.innerText")
    for heading in HEADINGS:
        assert heading in said, heading
    for name in CLASSES:
        assert name in said, name
    assert "1 are pixel for pixel among" in said
    assert said.count("test images have a cosine of 0.99 or more") == 2  # of either backbone's method
    assert "no nearest neighbours" not in said.lower()
    shown = "[...document.querySelectorAll('h3')].find(x => x.innerText.startsWith('{}')).parentElement"
    assert browser.evaluate(f"{shown.format('What MAE fills in')}.querySelectorAll('img').length") > 3
    assert browser.evaluate(f"{shown.format('Where it looks')}.querySelectorAll('img').length") > 3
    assert browser.evaluate("[...document.images].every(x => x.complete && x.naturalWidth > 0)")
    assert_silent(browser, real)
