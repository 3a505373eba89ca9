"""Two real ranks under the real launcher: signals to any process, a rank that dies, a rank that freezes."""

import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

from campaign import Row, lives, run_folder, write_recipe
from campaign.lives import Life

TIMEOUT = 15  # run.timeout_seconds of these runs
_LAUNCHER_SECONDS = 30  # that torch's launcher leaves a rank after SIGTERM, before SIGKILL
_SLACK_SECONDS = 45  # for interpreters to wind up, on cores that others use too
_TWO = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
_TWO += ["--mixed_precision", "no", "--dynamo_backend", "no"]


def start(folder: Path, launcher: list[str] = _TWO) -> Life:
    """A run of two ranks that would take an hour, some steps under way."""
    folder.mkdir(parents=True)
    write_recipe(folder, "mae", epochs=100_000, timeout_seconds=TIMEOUT, checkpoint_every_steps=1_000_000)
    life = lives.command(folder, ["mae.yaml"], launcher)
    assert lives.until(lambda: life.ended() or lives.logged(run_folder(folder, "mae")) > 3000, 300), life.said()
    assert not life.ended(), life.said()
    return life


def ranks(folder: Path) -> list[int]:
    """Process ids of rank 0, rank 1."""
    found = {}
    for pid in lives.members(folder):
        environment = (Path("/proc") / str(pid) / "environ").read_bytes()
        if (rank := re.search(rb"(?:^|\0)RANK=(\d+)", environment)) is not None:
            found[int(rank[1])] = pid
    return [found[rank] for rank in sorted(found)]


def gone(folder: Path, life: Life, seconds: float) -> bool:
    """Whether all its processes end in that time; none is left either way."""
    ended = lives.until(lambda: life.ended() and not lives.members(folder), seconds)
    for pid in lives.members(folder):
        os.kill(pid, signal.SIGKILL)
    return ended


def saved(folder: Path) -> bool:
    return any((run_folder(folder, "mae") / "checkpoints").glob("step_*"))


def signalled(folder: Path, target: str, number: int = signal.SIGTERM) -> bool:
    """SIGTERM to one of launcher, rank 0, rank 1, group: saved, and nothing left."""
    life = start(folder)
    if target == "group":
        os.killpg(life.pid, number)
    else:
        os.kill({"launcher": life.pid, **dict(zip(("rank 0", "rank 1"), ranks(folder), strict=True))}[target], number)
    return gone(folder, life, _LAUNCHER_SECONDS + _SLACK_SECONDS) and saved(folder) and bool(life.status)


def broken(folder: Path, rank: int, number: int) -> bool:
    """A rank is killed or stopped: all gone in bounded time, and the other one says which it was."""
    life = start(folder)
    pid = ranks(folder)[rank]
    os.kill(pid, number)
    ended = gone(folder, life, TIMEOUT + _LAUNCHER_SECONDS + _SLACK_SECONDS)
    named = f"rank {rank} (process {pid})" in " ".join(life.said().replace("│", " ").split())
    # the launcher may end the survivor before it has found the connection broken, and says itself which rank it was
    named |= number == signal.SIGKILL and re.search(rf"local_rank: {rank}|rank\s*: {rank}", life.said()) is not None
    return ended and bool(life.status) and named


def run(rounds: int, folder: Path) -> list[Row]:
    tries: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    slowest: dict[str, float] = {}

    def note(fault: str, good: bool, begun: float) -> None:
        tries[fault] += 1
        survived[fault] += good
        slowest[fault] = max(slowest.get(fault, 0.0), time.monotonic() - begun)

    for number in range(rounds):
        for target in ("launcher", "rank 0", "rank 1", "group"):
            begun = time.monotonic()
            note(f"SIGTERM to the {target}" if "rank" not in target else f"SIGTERM to {target}",
                 signalled(folder / f"{number} {target}", target), begun)  # fmt: skip
        for rank in (0, 1):
            for kind in (signal.SIGKILL, signal.SIGSTOP):
                begun = time.monotonic()
                note(f"{kind.name} of rank {rank}", broken(folder / f"{number} {kind.name} {rank}", rank, kind), begun)
    return [
        Row(fault, tries[fault], survived[fault], f"start to end {slowest[fault]:.0f} s at most") for fault in tries
    ]
