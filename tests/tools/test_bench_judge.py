"""The probes' bench, in miniature: what it compares gives the same answers, and it says what it measured."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

TOOL = str(Path(__file__).parents[2] / "tools" / "bench_judge.py")
SMALL = ["--images", "900", "--queries", "70", "--dim", "24", "--heads", "3", "--batches", "1", "--rounds", "2"]


def test_all_searches_find_the_same_rows() -> None:
    tool = runpy.run_path(TOOL)
    bank, queries, _ = tool["features"](900, 270, 24)
    ours, *others = (way().sort(1).values for way in tool["searches"](bank, queries).values())
    assert len(others) == 5
    assert all(torch.equal(ours, theirs) for theirs in others)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_was_given_back_is_still_seen() -> None:
    tool = runpy.run_path(TOOL)
    before = tool["forget_peak"]()
    torch.ones(2**25)  # 134 MB, at once given back
    assert 120e6 < tool["memory"]("VmHWM") - before < 200e6


def test_it_prints_what_it_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_judge.py", *SMALL])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(TOOL, run_name="__main__")
    assert not ended.value.code
    said = " ".join(capsys.readouterr().out.split())
    for name in (
        "kNN, torch, cosine",
        "kNN, faiss, both",
        "bare torch",
        "bare faiss",
        "sweep",
        "encoding, resnet_small",
    ):
        assert f" {name} " in said
    assert "3 heads on 900 x 24" in said
    assert "90 epochs of encoding by resnet18_small" in said
    assert "extrapolated from 2 batches" in said
    assert "70 queries of 900 x 24" in said
