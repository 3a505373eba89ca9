"""Result rows: what is read is what was written, and nothing malformed gets through."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.comparison import rows as rows_module
from eval.comparison.rows import collect, export, optimism
from ssl_cls.errors import UserError

LABELS = np.arange(101) % 10
CORRECT = np.random.default_rng(0).random(101) < 0.7


@pytest.fixture(autouse=True)
def labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_test_labels", lambda dataset, runs: LABELS)


@pytest.fixture
def run(synthetic_run: Callable[..., Path]) -> Path:
    results = [
        {"evaluator": "knn/v1", "correct": CORRECT},
        {"evaluator": "finetune/v1", "n_labels": 600, "draw": 1, "correct": ~CORRECT},
    ]
    return synthetic_run("simclr_resnet-seed0", "simclr", results, labels=LABELS, seconds=12.5)


def test_a_run_directory_is_read_whole(run: Path) -> None:
    knn, finetuned = collect([run])
    assert (knn.evaluator, knn.n_labels, knn.seconds, knn.folder) == ("knn/v1", None, 12.5, run)
    assert (finetuned.n_labels, finetuned.draw) == (600, 1)
    np.testing.assert_array_equal(knn.correct, CORRECT)
    np.testing.assert_array_equal(finetuned.correct, ~CORRECT)


def test_committed_rows_say_all_that_run_directories_say(run: Path, tmp_path: Path) -> None:
    tried = {
        "digits/knn-v1": [{"top1": 70.0}, {"top1": 99.5}],
        "digits/finetune-v1-n600-d1": [{"top1": 99.0}],
    }  # one: no choice
    (run / "eval" / "optimism.json").write_text(json.dumps(tried))
    first = collect([run])
    assert [row.best_on_test for row in first] == [99.5, None]
    export(first, tmp_path / "suite.jsonl")
    again = collect([tmp_path / "suite.jsonl"])
    key = lambda row: row.evaluator  # noqa: E731
    for before, after in zip(sorted(first, key=key), sorted(again, key=key), strict=True):
        assert (before.record, before.seconds) == (after.record, after.seconds)
        assert before.best_on_test == after.best_on_test
        np.testing.assert_array_equal(before.correct, after.correct)
    export([*again[::-1], *first], tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "suite.jsonl").read_bytes()


def test_committed_rows_of_several_labels_can_still_be_paired(run: Path, tmp_path: Path) -> None:
    scores = np.array([12.25, 30.1, 99.9])
    export([rows_module.replace(collect([run])[0], resampled=scores)], tmp_path / "suite.jsonl")
    (again,) = collect([tmp_path / "suite.jsonl"])
    assert again.resampled is not None
    np.testing.assert_allclose(again.resampled, scores, rtol=1e-6)
    assert "resampled" not in again.record


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_any_number_of_test_images_packs(tmp_path: Path, run: Path, bits: list[bool]) -> None:
    template = collect([run])[0]
    record = template.record | {"n_test": len(bits), "metrics": {"top1": 100 * float(np.mean(bits))}}
    row = rows_module.replace(template, record=record, correct=np.array(bits))
    export([row], tmp_path / "x.jsonl")
    assert list(collect([tmp_path / "x.jsonl"])[0].correct) == bits


def test_without_labels_or_predictions_there_is_a_row_but_no_correctness(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "eval" / "predictions" / "digits" / "finetune-v1-n600-d1.npy").unlink()
    assert [row.correct is None for row in collect([run])] == [False, True]
    monkeypatch.setattr(rows_module, "_test_labels", lambda dataset, runs: None)
    assert all(row.correct is None for row in collect([run]))


def test_predictions_of_other_data_are_not_used(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that contradict the row's own accuracy belong to another test set."""
    monkeypatch.setattr(rows_module, "_test_labels", lambda dataset, runs: LABELS[::-1])
    assert all(row.correct is None for row in collect([run]))


@pytest.mark.parametrize(
    "array",
    [np.zeros(100, np.int64), np.zeros(101, np.int32), np.array([{}] * 101, dtype=object)],
    ids=["short", "int32", "pickled"],
)
def test_wrong_predictions_are_refused(run: Path, array: np.ndarray) -> None:
    np.save(run / "eval" / "predictions" / "digits" / "knn-v1.npy", array)
    with pytest.raises(UserError, match="predictions") as caught:
        collect([run])
    assert caught.value.where.endswith("knn-v1.npy")


def test_what_was_kept_before_data_sets_had_folders_is_still_read(run: Path) -> None:
    for path in (run / "eval" / "predictions" / "digits").iterdir():
        path.rename(run / "eval" / "predictions" / path.name)
    (run / "eval" / "optimism.json").write_text(json.dumps({"knn-v1": [{"top1": 70.0}, {"top1": 99.5}]}))
    (run / "classifier" / "finetune-v1-n600-d1").mkdir(parents=True)
    knn, finetuned = collect([run])
    np.testing.assert_array_equal(knn.correct, CORRECT)
    np.testing.assert_array_equal(finetuned.correct, ~CORRECT)
    assert knn.best_on_test == 99.5
    assert finetuned.kept("classifier") == run / "classifier" / "finetune-v1-n600-d1"
    assert knn.kept("classifier") is None


def _with(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda row: json.dumps({**row, **changes})


def _without(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: json.dumps({name: value for name, value in row.items() if name != key})


MALFORMED = {
    "truncated": lambda row: json.dumps(row)[:-9],
    "not JSON": lambda row: "hello",
    "a list": lambda row: json.dumps([row]),
    "NaN": lambda row: json.dumps(row | {"metrics": {"top1": float("nan")}}),
    "deep": lambda row: "[" * 200_000,
    **{
        f"no {key}": _without(key)
        for key in ("run", "seed", "pretrain", "evaluator", "dataset", "n_labels", "n_test", "metrics")
    },
    "seed as text": _with(seed="0"),
    "seed as truth": _with(seed=True),
    "labels as float": _with(n_labels=100.0),
    "no images": _with(n_test=0),
    "accuracy above 100": _with(metrics={"top1": 100.1}),
    "accuracy as text": _with(metrics={"top1": "80"}),
    "no accuracy": _with(metrics={"top5": 80.0}),
    "no budget": _with(pretrain={"dataset": None}),
    "control characters": _with(run="a\u202eb"),
    "a line break": _with(method="a\nb"),
    "seconds as text": _with(seconds="12"),
    "the best on test as text": _with(best_on_test="99"),
    "bits that are no base64": _with(correct="!"),
    "resamples that are no numbers": _with(resampled="AAA="),
    "resamples that are no percentages": _with(resampled="AADAfw=="),
    "too few bits": _with(correct="AAAA"),
    "bits that contradict the accuracy": _with(correct="A" * 16 + "AA==", n_test=101),
}


@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_line_is_named(run: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], str]) -> None:
    good = (run / "eval" / "results.jsonl").read_text().splitlines()[0]
    path = tmp_path / "suite.jsonl"
    path.write_text(f"{good}\n{spoil(json.loads(good))}\n")
    with pytest.raises(UserError, match="malformed result row") as caught:
        collect([path])
    assert caught.value.where == f"{path}:2"


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("empty", "empty.jsonl", "binary.jsonl", "missing"):
        with pytest.raises(UserError) as caught:
            collect([tmp_path / name])
        assert str(tmp_path / name) in caught.value.where


def test_optimism_is_every_setting_s_test_score(run: Path) -> None:
    (run / "eval" / "optimism.json").write_text(
        json.dumps({"digits/knn-v1": [{"settings": {"k": 5}, "top1": 80.0}, {"settings": {"k": 9}, "top1": 81.0}]})
    )
    knn, finetuned = collect([run])
    assert (optimism(knn), optimism(finetuned)) == ([80.0, 81.0], [])
    (run / "eval" / "optimism.json").write_text("[]")
    with pytest.raises(UserError, match="malformed test scores"):
        optimism(knn)
