"""Who is to blame when ranks wait in vain, read from real processes."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
import torch

from ssl_cls import distributed as ranks
from ssl_cls import peers
from ssl_cls.peers import Peers


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]) -> Peers:
    """This process as rank 0, another one as rank 1, and rank 2 on another host."""

    def gather(own: torch.Tensor) -> torch.Tensor:
        other, elsewhere = own.clone(), own.clone()
        other[0, 0] = sleeper.pid
        elsewhere[0, 1] += 1
        return torch.cat((own, other, elsewhere))

    monkeypatch.setattr(ranks, "gather", gather)
    monkeypatch.setattr(ranks, "num_ranks", lambda: 3)
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    return Peers(torch.device("cpu"))


def soon(peers: Peers, expected: str) -> None:
    deadline = time.monotonic() + 20
    while not str(peers).startswith(expected) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert str(peers).startswith(expected)


def test_the_rank_that_is_stopped_or_gone_is_named(two: Peers, sleeper: subprocess.Popen[bytes]) -> None:
    soon(two, "no rank on ")  # a process that has just started may wait for its disk
    os.kill(sleeper.pid, signal.SIGSTOP)
    soon(two, f"rank 1 (process {sleeper.pid}) is stopped")
    sleeper.kill()
    soon(two, f"rank 1 (process {sleeper.pid}) is gone")  # a zombie: its launcher has not looked yet
    sleeper.wait()
    assert str(two) == f"rank 1 (process {sleeper.pid}) is gone"


def test_only_a_collective_s_error_is_blamed_on_a_rank(two: Peers) -> None:
    closed = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234")
    told = peers.lost(closed, two, "runs/x")
    assert told is not None
    assert "waited in vain" in told.what
    assert peers.lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), two, "runs/x") is None
