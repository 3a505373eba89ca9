import csv
import json
import os
import runpy
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, recall_score
from torch import Tensor, nn

from eval import judge as judging
from eval.base import Context, Encoder, EvalData, Provenance, Result, full_name
from eval.base import stem as file_stem
from eval.comparison import record, tables
from eval.comparison.compare import compare
from eval.comparison.rows import optimism, predictions
from eval.data import open_data
from eval.features import batches
from eval.finetune import FineTune
from eval.judge import judge
from eval.knn import KNN
from eval.linear import Linear
from eval.sheet import Features, write_features
from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import Subset, all_labels
from ssl_cls.errors import UserError

ROOT = Path(__file__).parents[2]


class Flat(nn.Module):
    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.fixture(scope="module")
def data() -> EvalData:
    return open_data(DataConfig("digits"))


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    come_from = Provenance("x-seed0", "simclr", "resnet_small", 0, "digits/train", 640, 1280)
    return Encoder(Flat(), 8, 1, (0.0,), (1.0,), "00", come_from, tmp_path / "x-seed0" / "eval")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(torch.device("cpu"), cache=tmp_path / "cache")


def _contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_row_says_what_the_contract_says_and_predictions_give_its_accuracy(
    encoder: Encoder, data: EvalData, context: Context
) -> None:
    rows = judge(encoder, data, [KNN(), Linear()], context)
    lines = [json.loads(line) for line in (encoder.out / "results.jsonl").read_text().splitlines()]
    assert lines == rows
    labels = data.test.labels(torch.arange(len(data.test))).numpy()
    for row, stem in zip(rows, ("digits/knn-v1", "digits/linear-v1"), strict=True):
        expected = {
            "run", "method", "backbone", "encoder_sha256", "seed", "pretrain", "evaluator", "settings",
            "dataset", "n_labels", "draw", "n_train", "n_test", "metrics", "chosen_on", "device", "input",
        }  # fmt: skip
        assert expected <= set(row)
        assert (row["dataset"], row["n_test"], row["chosen_on"]) == ("digits", len(data.test), "val")
        assert row["n_train"] == len(data.train) + len(data.val)
        answers = np.load(encoder.out / "predictions" / f"{stem}.npy", allow_pickle=False)
        assert answers.dtype == np.int64
        assert 100 * (answers == labels).mean() == pytest.approx(row["metrics"]["top1"])
        assert len(json.loads((encoder.out / "optimism.json").read_text())[stem]) > 1
    assert "seconds" not in json.dumps(rows)
    timing = [json.loads(line) for line in (encoder.out / "timing.jsonl").read_text().splitlines()]
    assert [one["evaluator"] for one in timing] == ["knn/v1", "linear/v1"]


def test_weights_that_are_shown_images_in_another_way_are_judged_anew(
    encoder: Encoder, data: EvalData, context: Context
) -> None:
    said: list[str] = []
    for number, mean in enumerate((0.4, 0.5, 0.5)):
        other = replace(encoder, provenance=replace(encoder.provenance, input={"crop_pct": 0.9, "mean": [mean]}))
        (row,) = judge(other, data, [KNN()], context, said.append)
        # digits are arrays, which are shown whole
        assert row["input"] == {"size": 8, "channels": 1, "crop_pct": 1.0, "mean": [mean]}
        assert ("knn/v1: known" in said) == (number == 2)


def test_what_is_known_is_not_done_again(encoder: Encoder, data: EvalData, context: Context) -> None:
    once = judge(encoder, data, [KNN()], context)
    before = _contents(encoder.out)
    said: list[str] = []
    assert judge(encoder, data, [KNN()], context, said.append) == once
    assert said == ["knn/v1: known"]
    assert _contents(encoder.out) == before


@pytest.mark.parametrize("changed", ["spec", "weights", "seed"])
def test_what_has_changed_is_done_again_and_takes_the_old_row_s_place(
    changed: str, encoder: Encoder, data: EvalData, context: Context
) -> None:
    judge(encoder, data, [KNN(), Linear(weight_decay=(1e-2,))], context)
    knn = KNN(k=(3,)) if changed == "spec" else KNN()
    if changed == "weights":
        encoder = replace(encoder, sha256="01")
    if changed == "seed":
        encoder = replace(encoder, provenance=replace(encoder.provenance, seed=1))
    said: list[str] = []
    (new,) = judge(encoder, data, [knn], context, said.append)
    assert "knn/v1: known" not in said
    lines = [json.loads(line) for line in (encoder.out / "results.jsonl").read_text().splitlines()]
    assert [line["evaluator"] for line in lines] == ["linear/v1", "knn/v1"]
    assert lines[1] == new


def test_other_images_or_labels_under_the_same_name_are_judged_anew(
    encoder: Encoder, data: EvalData, context: Context
) -> None:
    (before,) = judge(encoder, data, [KNN()], context)
    fewer = replace(data, test=Subset(data.test, torch.arange(50), data.test.name))
    (after,) = judge(encoder, fewer, [KNN()], context)
    assert (before["n_test"], after["n_test"]) == (len(data.test), 50)


def test_two_data_sets_live_side_by_side(encoder: Encoder, data: EvalData, context: Context) -> None:
    """A run judged on a second data set keeps its rows on the first, and all that is beside them."""
    first = judge(encoder, data, [KNN()], context)
    before = _contents(encoder.out)
    other = replace(data, name="letters", test=data.val)  # other images, and another number of them
    second = judge(encoder, other, [KNN()], context)
    rows = list(record.read(encoder.out / "results.jsonl", encoder.out.parent))
    assert [row.record for row in rows] == [*first, *second]
    for row, source in zip(rows, (data.test, data.val), strict=True):
        answers = predictions(row)
        assert answers is not None
        assert 100 * (answers == all_labels(source).numpy()).mean() == pytest.approx(row.top1)
        assert max(optimism(row)) >= row.top1 - 1e-9
    after = _contents(encoder.out)
    shared = {"results.jsonl", "optimism.json", "timing.jsonl"}
    assert all(after[name] == content for name, content in before.items() if name not in shared)
    said: list[str] = []
    assert judge(encoder, data, [KNN()], context, said.append) == first
    assert said == ["knn/v1: known"]
    write_features(encoder, other, context)
    assert list(_table(encoder.out, "test")) == ["image", "label", "class", "knn-v1"]
    assert _table(encoder.out, "test")["knn-v1"] == [str(answer) for answer in predictions(rows[1])]


def test_rows_do_not_depend_on_the_clock(encoder: Encoder, data: EvalData, context: Context, tmp_path: Path) -> None:
    judge(encoder, data, [KNN(), Linear()], context)
    again = replace(encoder, out=tmp_path / "again")
    judge(again, data, [KNN(), Linear()], replace(context, cache=tmp_path / "cache2"))
    one, other = (_contents(out) for out in (encoder.out, again.out))
    assert set(one) == set(other)
    assert all(one[name] == other[name] for name in one if name != "timing.jsonl")


def test_a_failure_midway_leaves_the_rows_as_they_were(
    encoder: Encoder, data: EvalData, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(encoder, data, [KNN()], context)
    before = (encoder.out / "results.jsonl").read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(judging.np, "save", full)
    with pytest.raises(OSError, match="no space"):
        judge(encoder, data, [Linear()], context)
    assert (encoder.out / "results.jsonl").read_bytes() == before


def test_several_label_counts_and_draws_are_rows_of_their_own(
    encoder: Encoder, data: EvalData, context: Context
) -> None:
    @dataclass(frozen=True)
    class Draws:
        name: str = "fewlabel/v1"

        def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
            answers = torch.zeros(len(data.test), dtype=torch.int64)
            return [
                Result(self.name, {}, {"top1": 10.0}, n, len(answers), answers, "cv5", n_labels=n, draw=draw)
                for n in (100, 600)
                for draw in (0, 1)
            ]

    judge(encoder, data, [Draws()], context)
    stems = {path.stem for path in (encoder.out / "predictions" / "digits").iterdir()}
    assert stems == {f"fewlabel-v1-n{n}-d{draw}" for n in (100, 600) for draw in (0, 1)}
    assert len((encoder.out / "results.jsonl").read_text().splitlines()) == 4


def test_rows_that_are_damaged_are_refused_not_lost(encoder: Encoder, data: EvalData, context: Context) -> None:
    encoder.out.mkdir(parents=True)
    for text in ('{"a": 1}\n{"b"\n', "[1]\n"):
        (encoder.out / "results.jsonl").write_text(text)
        with pytest.raises(UserError, match="malformed"):
            judge(encoder, data, [KNN()], context)
        assert (encoder.out / "results.jsonl").read_text() == text


def test_features_are_written_for_others_to_use(encoder: Encoder, data: EvalData, context: Context) -> None:
    write_features(encoder, data, context)
    for name, source in (("train", data.train), ("val", data.val), ("test", data.test)):
        features = np.load(encoder.out / "features" / f"{name}.npy", allow_pickle=False)
        labels = np.load(encoder.out / "features" / f"{name}_labels.npy", allow_pickle=False)
        index = torch.arange(len(source))
        np.testing.assert_array_equal(features, source.pixels(index).flatten(1).float().numpy() / np.float32(255))
        np.testing.assert_array_equal(labels, source.labels(index).numpy())


def test_features_of_other_layers_and_poolings_are_written_side_by_side(
    encoder: Encoder, data: EvalData, context: Context
) -> None:
    torch.manual_seed(0)
    network = build(BackboneConfig("resnet_small", args={"channels": [4, 6]}), 1, 8).eval()
    encoder = replace(encoder, network=network)
    write_features(encoder, data, context, Features(layers=(-1, -2), poolings=("own", "avg2x2")))
    written = torch.from_numpy(np.load(encoder.out / "features" / "test.npy"))
    (images, *_) = batches(encoder, data.test, torch.device("cpu"))
    with torch.inference_mode():
        last, first = network.outputs(images, (-1, -2))
        expected = [
            network.pool(last),
            network.pool(last, "avg2x2"),
            network.pool(first),
            network.pool(first, "avg2x2"),
        ]
    torch.testing.assert_close(written[: len(images)], torch.cat(expected, 1))
    assert written.shape[1] == (6 + 4) * (1 + 4)
    with pytest.raises(UserError, match="none of the layers"):
        write_features(encoder, data, context, Features(layers=(-3,)))
    with pytest.raises(ValueError, match="pooling must be"):
        Features(poolings=("max",))


def _table(out: Path, name: str) -> dict[str, list[str]]:
    """The columns of a split's table, as text."""
    if (out / "features" / f"{name}.parquet").exists():
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = parquet.read_table(out / "features" / f"{name}.parquet").to_pydict()
        return {key: list(map(str, values)) for key, values in columns.items()}
    with (out / "features" / f"{name}.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    return dict(zip(header, map(list, zip(*lines, strict=True)), strict=True))


def test_the_table_beside_the_features_says_which_image_each_row_is_of(
    encoder: Encoder, data: EvalData, context: Context
) -> None:
    judge(encoder, data, [KNN(), Linear(weight_decay=(1e-2,))], context)
    write_features(encoder, data, context)
    index = torch.arange(len(data.test))
    table = _table(encoder.out, "test")
    assert list(table) == ["image", "label", "class", "knn-v1", "linear-v1"]
    assert table["image"] == [str(i) for i in index.tolist()]
    assert table["label"] == table["class"] == [str(label) for label in data.test.labels(index).tolist()]
    for stem in ("knn-v1", "linear-v1"):
        answers = np.load(encoder.out / "predictions" / "digits" / f"{stem}.npy", allow_pickle=False)
        assert table[stem] == [str(answer) for answer in answers]
    assert list(_table(encoder.out, "train")) == ["image", "label", "class"]


def test_each_class_is_reported_beside_the_row(encoder: Encoder, data: EvalData, context: Context) -> None:
    (row,) = judge(encoder, data, [KNN()], context)
    report = json.loads((encoder.out / "by_class" / "digits" / "knn-v1.json").read_text())
    labels = data.test.labels(torch.arange(len(data.test)))
    answers = np.load(encoder.out / "predictions" / "digits" / "knn-v1.npy", allow_pickle=False)
    assert report["confusion"] == confusion_matrix(labels, answers).tolist()
    assert report["averages"]["micro"]["f1"] == pytest.approx(row["metrics"]["top1"])
    assert report["averages"]["macro"]["f1"] == pytest.approx(row["metrics"]["macro_f1"])
    recalls = recall_score(labels, answers, average=None)
    assert [one["recall"] for one in report["classes"]] == pytest.approx(list(100 * recalls))


@pytest.mark.skipif(sys.platform != "linux", reason="measures its own process's clock")
def test_what_is_cached_costs_little_beyond_imports(encoder: Encoder, data: EvalData, context: Context) -> None:
    evaluators = [KNN(), Linear()]
    judge(encoder, data, evaluators, context)
    begun = time.process_time()
    judge(encoder, data, evaluators, context)
    assert time.process_time() - begun < 2


def _tool(arguments: list[str], cwd: Path, launcher: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "200"}
    command = [sys.executable, *(launcher or []), str(ROOT / "tools" / "evaluate.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "evaluate.py"), "--help"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "--evaluators" in done.stdout


def test_from_the_command_line(tmp_path: Path) -> None:
    done = _tool(["pixels", "--evaluators", "knn", "features", "data.source=digits"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "knn/v1" in done.stdout
    assert (tmp_path / "runs/pixels/eval/results.jsonl").is_file()
    assert (tmp_path / "runs/pixels/eval/features/val.npy").is_file()


def test_features_need_no_labels(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    names = {f"{number}.png" for number in range(40)}
    for name in names:
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / name)
    data = ["data.source=folder", "data.path=pictures"]
    done = _tool(["pixels", "--evaluators", "features", *data], tmp_path)
    assert done.returncode == 0, done.stderr
    tables = [_table(tmp_path / "runs/pixels/eval", split) for split in ("train", "val", "test")]
    assert {path for table in tables for path in table["path"]} == names
    assert {label for table in tables for label in table["label"]} == {"-1"}
    assert _tool(["pixels", "--evaluators", "features", "knn", *data], tmp_path).returncode == 2  # nothing to judge by


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["pixels", "--evaluators", "knnn"], "did you mean knn?"), (["data.source=digits"], "nothing to judge")],
)
def test_wrong_commands_are_one_screen_and_exit_2(
    arguments: list[str],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "evaluate.py"), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert hint in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.dist
def test_x17_two_processes_give_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the same for each process, however many there are
    arguments = [
        "random:resnet_small", "--evaluators", "knn", "linear", "linear_layers", "linear_aug", "ridge", "fewlabel",
        "finetune", "features", "data.source=digits", "linear_aug.epochs=1", "fewlabel.n_labels=[40]",
        "fewlabel.draws=[0,1,2]", "finetune.n_labels=40", "finetune.draws=[0,1,2]", "finetune.steps=2",
        "finetune.learning_rates=[1e-3,1e-2]",
    ]  # fmt: skip
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    found = []
    for name, launcher in (("one", None), ("two", [*launch, "--multi_gpu", "--num_processes", "2"])):
        (tmp_path / name).mkdir()
        done = _tool(arguments, tmp_path / name, launcher)
        assert done.returncode == 0, done.stderr
        out = tmp_path / name / "runs/random-resnet_small-seed0/eval"
        found.append({name: content for name, content in _contents(out.parent).items() if "timing" not in name})
    assert found[0] == found[1]
    assert any(name.startswith("classifier/digits/finetune") for name in found[0])
    rows = [json.loads(line) for line in found[0]["eval/results.jsonl"].decode().splitlines()]
    assert sum(row["evaluator"] == "finetune/v1" for row in rows) == 3


def test_variants_of_an_evaluator_stand_side_by_side(encoder: Encoder, data: EvalData, context: Context) -> None:
    euclidean = KNN(metrics=("euclidean",))
    for one in (KNN(), euclidean, KNN()):
        judge(encoder, data, [one], context)
    rows = list(record.read(encoder.out / "results.jsonl", encoder.out.parent))
    assert [row.evaluator for row in rows] == ["knn/v1", 'knn/v1 metrics=["euclidean"]']
    assert len({row.stem for row in rows}) == 2
    for row in rows:
        assert predictions(row) is not None
        assert optimism(row)
    (group,) = compare(rows)
    assert tables.cells(group)[0][1:3] == ["kNN", 'kNN, metrics=["euclidean"]']
    assert full_name(FineTune(strategy="top", loss="focal", epochs=4.0)) == "finetune/v1 loss=focal strategy=top"
    long = FineTune(strategy="top", loss="focal", mixup=0.1, cutmix=0.1, erase=0.1, dropout=0.1, drop_path=0.1, ema=0.9,
                    weight_decay=0.1, schedule="plateau", label_smoothing=0.0, warmup=0.0, patience=1)  # fmt: skip
    assert len(Path(file_stem("digits", full_name(long), 100, 0)).name) < 160


def test_random_weights_that_mostly_stay_are_no_training_from_scratch(
    encoder: Encoder, data: EvalData, context: Context
) -> None:
    (known,) = judge(encoder, data, [KNN()], context)

    def made(method: str, strategy: str) -> dict[str, object]:
        name = "finetune/v1" + f" strategy={strategy}" * (strategy == "head")
        return {**known, "method": method, "evaluator": name, "spec": {"strategy": strategy}}

    path = encoder.out / "rows.jsonl"
    lines = [made(method, strategy) for method in ("random", "simclr") for strategy in ("all", "head")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (group,) = compare(list(record.read(path)))
    columns = {line.kind: [column.variant for column in line.rows] for line in group.lines}
    assert columns["scratch"] == [[]]
    assert columns["random"] == [["strategy=head"]]
