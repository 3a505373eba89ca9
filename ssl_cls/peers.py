"""Which rank is gone, when a collective fails: gloo and NCCL name an address at best."""

import os
import socket
from pathlib import Path

import torch
from torch import distributed

from ssl_cls import distributed as ranks
from ssl_cls.errors import RunError

_HOST_BYTES = 64
_STATES = {"T": "is stopped", "t": "is stopped by a debugger", "D": "waits for a disk or a device"}


class Peers:
    """Host and process id of every rank, exchanged while all of them are there."""

    def __init__(self, device: torch.device) -> None:
        host = socket.gethostname().encode()[:_HOST_BYTES]
        own = torch.zeros(1 + _HOST_BYTES, dtype=torch.int64, device=device)
        own[0] = os.getpid()
        own[1 : 1 + len(host)] = torch.tensor(list(host), device=device)
        self._ranks: list[tuple[str, int]] = []
        for pid, *letters in ranks.gather(own[None]).tolist():
            self._ranks.append((bytes(letters).rstrip(b"\0").decode(), pid))
        self._host = host.decode()

    def __str__(self) -> str:
        """What is wrong with which rank, as far as this host can tell: "rank 1 (process 4711) is gone"."""
        found, elsewhere = [], []
        for rank, (host, pid) in enumerate(self._ranks):
            if host != self._host:
                elsewhere.append(f"{rank} on {host}")
            elif rank != ranks.rank() and (state := _state(pid)):
                found.append(f"rank {rank} (process {pid}) {state}")
        if not found and elsewhere:
            return f"no rank on {self._host} is gone; look at rank {', '.join(elsewhere)}"
        return "; ".join(found) or "every rank on this host is alive: one of them did not come in time"


def _state(pid: int) -> str:
    """What keeps a process from answering; "" where nothing can be seen."""
    try:
        status = (Path("/proc") / str(pid) / "stat").read_text()
    except FileNotFoundError:
        return "is gone" if Path("/proc/self/stat").exists() else ""  # no Linux: nothing can be told
    except OSError:
        return ""
    letter = status.rsplit(")", 1)[1].split()[0]
    return "is gone" if letter in "ZX" else _STATES.get(letter, "")


def lost(error: RuntimeError, peers: Peers, where: str) -> RunError | None:
    """The error to show in the place of a collective's; None if `error` is none of a collective."""
    of_a_collective = isinstance(error, distributed.DistBackendError | distributed.DistNetworkError) or any(
        word in str(error) for word in ("gloo", "Connection closed by peer", "ProcessGroup", "Timed out waiting")
    )
    if ranks.num_ranks() == 1 or not of_a_collective:
        return None
    return RunError(
        f"rank {ranks.rank()} waited in vain: {peers}",
        where,
        "the last checkpoint is kept: the same command resumes; run.timeout_seconds= sets how long ranks wait",
    )
