"""tools/compare.py as a user runs it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def compare(*arguments: object, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "compare.py"), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env={"PYTHONPATH": str(path), "PATH": "/usr/bin:/bin", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('help must not need torch')")
    done = compare("--help", cwd=tmp_path, path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "RUNDIR" in done.stdout


def test_runs_and_committed_rows_are_compared(tmp_path: Path, synthetic_run: Callable[..., Path]) -> None:
    run = synthetic_run("pixels", "pixels", [{"evaluator": "knn/v1", "correct": np.arange(360) % 4 > 0}])
    sources = (run, run / "eval" / "results.jsonl")
    done = compare(*sources, "--out", tmp_path / "out", "--published", "cifar10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "75.0 (1)" in done.stdout  # the same row twice is one value
    assert "published on cifar10, kNN" in done.stdout
    assert done.stdout.rstrip().endswith("index.html")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.csv",
        "comparison.md",
        "comparison.tex",
        "index.html",
    ]


def test_a_data_set_that_nobody_published_on_is_one_screen_and_exit_2(
    tmp_path: Path, synthetic_run: Callable[..., Path]
) -> None:
    run = synthetic_run("pixels", "pixels", [{"evaluator": "knn/v1", "correct": np.arange(360) % 4 > 0}])
    done = compare(run, "--out", tmp_path / "out", "--published", "cifar_10", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean cifar10?" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_rows_beside_others_is_passed_over_by_name(
    synthetic_run: Callable[..., Path], tmp_path: Path
) -> None:
    """runs/* has the last comparison in it, and runs that are not judged yet."""
    run = synthetic_run("pixels", "pixels", [{"evaluator": "knn/v1", "correct": np.arange(360) % 4 > 0}])
    (tmp_path / "comparison").mkdir()
    done = compare(run, tmp_path / "comparison", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0
    assert "no result rows" in done.stdout + done.stderr
    assert "comparison" in done.stdout + done.stderr
    assert (tmp_path / "out" / "index.html").exists()


def test_a_folder_without_rows_is_one_screen_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = compare("empty", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "no result rows here" in done.stderr
    assert "tools/evaluate.py" in done.stderr
    assert not (tmp_path / "runs").exists()
