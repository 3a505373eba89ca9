"""The report in a real browser: it renders, is silent on the console, asks for nothing, fits a phone."""

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
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

    requested = [
        x["params"]["request"]["url"] for x in browser.events if x.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in requested if not url.startswith("data:")] == [page.as_uri()]
    assert not [
        x
        for x in browser.events
        if x.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    ]

    browser.evaluate("document.querySelectorAll('details').forEach(x => { x.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width  # published rows, recipes and hashes too

    picture = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(browser.ask("Page.captureScreenshot")["data"]))).convert("L")
    )
    assert (np.median(picture) > 200) == (scheme == "light")
    assert picture.std() > 10  # something is drawn on it
