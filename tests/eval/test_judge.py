"""What is kept of evaluations, whatever else happens at the time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval import classifier, encoders
from eval.base import Context, Encoder, EvalData, Evaluator
from eval.data import open_data, shown
from eval.judge import judge
from eval.knn import KNN
from eval.linear import Linear
from eval.ridge import Ridge
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import Subset


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., list[str]]:
    """Judges by these evaluators and returns those that then have rows."""
    data = open_data(DataConfig("digits"))
    encoder = replace(encoders.load("random:resnet_small", data, 0), out=tmp_path / "run" / "eval")

    def run(*evaluators: Evaluator) -> list[str]:
        judge(encoder, shown(data, 1), evaluators, Context(torch.device("cpu"), cache=tmp_path))
        lines = (tmp_path / "run" / "eval" / "results.jsonl").read_text().splitlines()
        return sorted(json.loads(line)["evaluator"] for line in lines)

    return run


def test_two_evaluations_of_a_run_at_once_keep_the_rows_of_both(
    judged: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Ridge.run

    def meanwhile(self: Ridge, encoder: Encoder, data: EvalData, context: Context) -> Any:
        judged(KNN())
        return alone(self, encoder, data, context)

    monkeypatch.setattr(Ridge, "run", meanwhile)
    assert judged(Ridge()) == ["knn/v1", "ridge/v1"]


def test_rows_tell_the_labels_they_were_made_with() -> None:
    """Neither where files lie nor how they are shown to an encoder, which is not alike for all of a table."""
    data = open_data(DataConfig("digits"))
    assert shown(data, 3).labelled_sha256 == data.labelled_sha256
    first = replace(data, train=Subset(data.train, torch.arange(1, len(data.train)), "digits/train"))
    assert first.labelled_sha256 != data.labelled_sha256


def test_a_row_is_there_only_when_its_classifier_is(
    judged: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any) -> bool:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(classifier, "save", full)
        with pytest.raises(OSError, match="no space"):
            judged(Linear())
    assert judged(Linear()) == ["linear/v1"]
    assert list((tmp_path / "run" / "classifier").rglob("model.safetensors"))
