"""Killed at arbitrary moments and started again by the same command, a run ends in the same bytes (X21)."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the networks are tiny: a second thread would only wait


RECIPES = {
    "mae": "backbone: {name: vit_tiny_patch16_224, args: {patch_size: 7, embed_dim: 16, depth: 1, num_heads: 2}}\n"
    "method: {name: mae, decoder_dim: 8, decoder_depth: 1, decoder_heads: 2}",
    "simclr": "backbone: {name: resnet_small, args: {channels: [8, 16]}}\nmethod: {name: simclr, projector: [16, 8]}",
}


def command(folder: Path, method: str) -> list[str]:
    path = folder / f"{method}.yaml"
    path.write_text(
        f"name: {method}\nseed: 1\ndata: {{source: digits}}\n{RECIPES[method]}\n"
        "optim: {name: adamw, lr: 1e-3, weight_decay: 0.05, warmup_epochs: 1}\n"
        "train: {epochs: 10, batch_size: 64}\nrun: {checkpoint_every_steps: 7, log_every_steps: 3}\n"
    )
    return [sys.executable, str(ROOT / "tools" / "pretrain.py"), path.name]


def digests(run: Path) -> dict[str, str]:
    last = max((run / "checkpoints").iterdir())
    files = [
        last / "model.safetensors",
        last / "optim.safetensors",
        run / "metrics.jsonl",
        run / "encoder" / "model.safetensors",
        run / "recipe.yaml",
    ]
    return {
        path.name if path.parent.name != "encoder" else "encoder": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.parametrize("method", list(RECIPES))
def test_killed_several_times_it_ends_in_the_same_bytes(tmp_path: Path, method: str) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
    assert (
        subprocess.run(
            command(straight, method), cwd=straight, capture_output=True, check=False, timeout=300
        ).returncode
        == 0
    )
    chance, kills = random.Random(method), 0
    run = broken / "runs" / f"{method}-seed1"
    for _ in range(40):
        process = subprocess.Popen(
            command(broken, method), cwd=broken, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        steps = progress(run)
        deadline = time.monotonic() + 120
        while process.poll() is None and progress(run) == steps and time.monotonic() < deadline and kills < 5:
            time.sleep(0.02)  # until it has done something in this life
        time.sleep(chance.uniform(0, 0.5))
        if process.poll() is None and kills < 5:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait(timeout=300) == 0:
            break
    assert kills == 5
    assert digests(straight / "runs" / f"{method}-seed1") == digests(run)


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
