"""From a digits run to answers and explanations for image files."""

import csv
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval import classifier, encoders
from eval.base import Context, Encoder, Provenance
from eval.data import open_data, shown
from eval.finetune import FineTune
from eval.inference import logits
from eval.judge import judge
from eval.linear import Linear
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import all_labels

ROOT = Path(__file__).parents[2]
LINEAR, TUNED = "classifier/digits/linear-v1", "classifier/digits/finetune-v1-n40-d0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as tools/evaluate.py leaves it, and beside it 60 test images as files."""
    folder = tmp_path_factory.mktemp("predict")
    data = open_data(DataConfig("digits"))
    encoder = replace(encoders.load("random:resnet_small", data, 0), out=folder / "run" / "eval")
    said: list[str] = []
    tuned = FineTune(n_labels=40, draws=(0, 1), learning_rates=(3e-3,), steps=5)
    judge(encoder, shown(data, 1), [Linear(), tuned], Context(torch.device("cpu"), cache=folder), said.append)
    assert sum("to use it" in line for line in said) == 2
    (folder / "images" / "deep").mkdir(parents=True)
    pixels = data.test.pixels(torch.arange(60))
    for number, image in enumerate(pixels):
        name = f"deep/=cmd {number}.png" if number % 2 else f"{number:02}.png"
        Image.fromarray(image[0].numpy()).save(folder / "images" / name)
    return folder


def _tool(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
    return int(ended.value.code or 0)


def test_a_folder_s_images_get_the_answers_that_the_row_was_scored_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and arrays are resized by different code: all but a few answers agree."""
    out = tmp_path / "predictions.csv"
    assert _tool("predict.py", [str(run / "run" / LINEAR), str(run / "images"), "--out", str(out)], monkeypatch) == 0
    with out.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 60
    assert list(lines[0]) == ["path", "label", "probability"]
    assert all(0.1 <= float(line["probability"]) <= 1 for line in lines)
    assert all((run / "images" / line["path"]).is_file() for line in lines)
    answers = np.load(run / "run" / "eval" / "predictions" / "digits" / "linear-v1.npy", allow_pickle=False)[:60]
    number = {line["path"]: int("".join(c for c in Path(line["path"]).stem if c.isdigit())) for line in lines}
    agree = np.mean([int(line["label"]) == answers[number[line["path"]]] for line in lines])
    assert agree > 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_bad_images_are_named_left_out_and_end_in_2(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, image in enumerate(sorted((run / "images").glob("*.png"))[:3]):
        (tmp_path / f"{number}.png").write_bytes(image.read_bytes())
    (tmp_path / "=1.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no image")
    out = tmp_path / "predictions.csv"
    assert _tool("predict.py", [str(run / "run" / TUNED), str(tmp_path), "--out", str(out)], monkeypatch) == 2
    said = capsys.readouterr()
    assert "cannot read torn.png" in said.err
    assert "cannot read text.jpg" in said.err
    assert "4 of 6 images classified" in said.out
    assert [line.split(",")[0] for line in out.read_text().splitlines()[1:]] == ["0.png", "1.png", "2.png", "./=1.png"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nowhere", "."], "--evaluators finetune"),
        (["RUN", "."], "give one of"),
        (["RUN/" + LINEAR, "nowhere"], "no such folder"),
        (["RUN/" + LINEAR, "RUN", "--out", "no/such/folder.csv"], "existing folder"),
    ],
)
def test_wrong_commands_are_one_screen_and_exit_2(
    arguments: list[str],
    hint: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _tool("predict.py", [word.replace("RUN", str(run / "run")) for word in arguments], monkeypatch) == 2
    assert hint in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_explanations_are_drawn(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(path) for path in sorted((run / "images").rglob("*.png"))[:3]]
    out = tmp_path / "explain.png"
    assert _tool("explain.py", [str(run / "run" / TUNED), *images, "--out", str(out)], monkeypatch) == 0
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    assert picture.shape[0] > 400
    warm = (picture[..., 0] - picture[..., 2] > 60).sum()
    assert warm > 500  # the images are grey, so what is coloured is heat
    (tmp_path / "bad.png").write_text("no image")
    assert _tool("explain.py", [str(run / "run" / TUNED), str(tmp_path / "bad.png")], monkeypatch) == 2
    assert "cannot read this image" in capsys.readouterr().err


def test_the_folder_says_where_it_comes_from(run: Path) -> None:
    trained = classifier.load(run / "run" / TUNED)
    assert trained.class_names == [str(digit) for digit in range(10)]
    assert trained.framing.crop == 1.0
    provenance = json.loads((run / "run" / TUNED / "provenance.json").read_text())
    assert (provenance["evaluator"], provenance["n_labels"], provenance["draw"]) == ("finetune/v1", 40, 0)
    assert not (run / "run" / "classifier" / "digits" / "finetune-v1-n40-d1").exists()  # one of several draws is enough


def test_the_answers_behind_a_row_are_those_of_its_classifier(run: Path) -> None:
    data = open_data(DataConfig("digits"))
    trained = classifier.load(run / "run" / TUNED)
    encoder = Encoder(
        trained.model.network, trained.input_size, 1, trained.mean, trained.std, "", Provenance("x", "x", "", 0), run
    )  # fmt: skip
    answers = logits(trained.model, encoder, data.test, torch.device("cpu")).argmax(1)
    kept = np.load(run / "run" / "eval" / "predictions" / "digits" / "finetune-v1-n40-d0.npy", allow_pickle=False)
    assert (answers.numpy() == kept).all()
    assert len(all_labels(data.test)) == len(kept)


def test_pixels_leave_no_classifier(tmp_path: Path) -> None:
    data = open_data(DataConfig("digits"))
    encoder = replace(encoders.load("pixels", data, 0), out=tmp_path / "pixels" / "eval")
    judge(encoder, data, [Linear(weight_decay=(1e-3,))], Context(torch.device("cpu"), cache=tmp_path / "cache"))
    assert not (tmp_path / "pixels" / "classifier").exists()


@pytest.mark.parametrize("tool", ["predict.py", "explain.py"])
def test_help_needs_no_torch(tool: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), "--help"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "CLASSIFIER" in done.stdout


def test_deep_pixels_and_several_labels_are_answered_as_they_were_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sensors of 16 bits, whose values are from 1,000 to 3,000; bright corners, any number of them, are the labels."""
    generator = np.random.default_rng(0)
    corners = {"north": (slice(0, 14), slice(0, 28)), "south": (slice(14, 28), slice(0, 28))}
    lines, truth = [], {}
    (tmp_path / "images").mkdir()
    for number in range(160):
        own = [name for bit, name in enumerate(corners) if number >> bit & 1]
        image = generator.integers(1000, 1600, (28, 28)).astype(np.uint16)
        for name in own:
            image[corners[name]] += 1200
        truth[f"{number:03}.png"] = set(own)
        Image.fromarray(image).save(tmp_path / "images" / f"{number:03}.png")
        lines.append(json.dumps({"path": f"{number:03}.png", "labels": own}))
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    data = open_data(
        DataConfig("folder", str(tmp_path / "images"), labels=str(tmp_path / "labels.jsonl"), window=(1000, 3000))
    )
    encoder = replace(encoders.load("random:resnet_small", data, 0), out=tmp_path / "run" / "eval")
    judge(encoder, shown(data, 1), [Linear()], Context(torch.device("cpu"), cache=tmp_path))
    out = tmp_path / "predictions.csv"
    assert _tool("predict.py", [str(tmp_path / "run"), str(tmp_path / "images"), "--out", str(out)], monkeypatch) == 0
    answers: dict[str, set[str]] = {name: set() for name in truth}
    with out.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            answers[line["path"]] |= {line["label"]} - {""}
            assert float(line["probability"]) >= 0.5 or not line["label"]
    assert np.mean([answers[name] == own for name, own in truth.items()]) > 0.95
