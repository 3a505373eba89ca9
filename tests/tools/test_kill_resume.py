"""Signals to the real command, its launcher's death, and two of it at once; the campaign of faults in short."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from campaign import ROOT, write_recipe

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the networks are tiny: a second thread would only wait


def command(folder: Path, method: str) -> list[str]:
    recipe = write_recipe(folder, method, epochs=10, checkpoint_every_steps=7)
    return [sys.executable, str(ROOT / "tools" / "pretrain.py"), recipe.name]


def test_the_campaign_in_short_loses_nothing() -> None:  # R1 (X21), R4, R5, R6
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "faults.py"), "--short"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for fault in ("SIGKILL", "a flipped bit", "disk full", "stream"):
        assert fault in done.stdout


def progress(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.stat().st_size if metrics.exists() else 0


def test_sigterm_saves_and_exits_143_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "mae"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    run = tmp_path / "runs" / "mae-seed1"
    while progress(run) == 0:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    saved = max(path.name for path in (run / "checkpoints").glob("step_*"))
    again = subprocess.run(command(tmp_path, "mae"), cwd=tmp_path, capture_output=True, check=False, timeout=300)
    assert again.returncode == 0
    assert f"resuming at step {int(saved.removeprefix('step_'))}" in (run / "log.txt").read_text()


def test_the_launchers_death_leaves_no_orphan(tmp_path: Path) -> None:
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    process = subprocess.Popen(
        launcher + command(tmp_path, "mae")[1:], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    run = tmp_path / "runs" / "mae-seed1"
    while progress(run) == 0:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(5)
    before = progress(run)
    time.sleep(1)
    assert progress(run) == before
    children = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and str(tmp_path) == _cwd(entry)]
    assert not children


def _cwd(entry: Path) -> str:
    try:
        return str((entry / "cwd").readlink())
    except OSError:
        return ""


def test_two_processes_cannot_write_to_one_run(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [*command(tmp_path, "mae"), "train.epochs=1000"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while progress(tmp_path / "runs" / "mae-seed1") == 0:
        time.sleep(0.02)
    second = subprocess.run(
        [*command(tmp_path, "mae"), "train.epochs=1000"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    first.kill()
    first.wait()
    assert second.returncode == 2
    assert "another process" in second.stderr
