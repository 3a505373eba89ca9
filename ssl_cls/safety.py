"""What no rank may pass over alone: a loss or a gradient that is not finite, and a signal.

They travel in one small tensor, all-reduced each step, that gates the update on the device. The host reads it without
waiting: at once where tensors are in its own memory, else one step late.
"""

import json
from collections import deque
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from ssl_cls import distributed as ranks
from ssl_cls.errors import RunError

REPORT = "nonfinite.json"


class Judged(NamedTuple):
    """What all ranks know of a step."""

    step: int  # 0-based
    bad_rank: int  # one whose loss or gradient is not finite; -1: all are
    signal: int  # that any rank has received; 0: none
    loss: float  # this rank's own
    grad_norm: float


class Gate:
    """Closed from the first step on whose loss or gradient is not finite on any rank: no update passes it."""

    def __init__(self, device: torch.device) -> None:
        self.on_host = device.type == "cpu"
        self._flags = torch.zeros(2, device=device)  # 1 + the bad rank, signal
        self._unread: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque(maxlen=2)

    def judge(self, step: int, losses: list[Tensor], norm: Tensor, signal: int) -> Tensor:
        """float32 scalar on the device: 1 if this step's update is to be left out, on every rank, else 0.

        losses: of this rank's micro-batches. norm: of the gradient, after the ranks have averaged theirs.
        """
        loss = torch.stack(losses).mean()
        bad = ~(loss.isfinite() & norm.isfinite())
        rank = bad.float() * (ranks.rank() + 1)
        self._flags = torch.maximum(self._flags, torch.stack((rank, torch.full_like(rank, signal))))
        if ranks.num_ranks() > 1:
            distributed.all_reduce(self._flags, distributed.ReduceOp.MAX)
        figures = torch.cat((self._flags, torch.stack((loss.float(), norm.float()))))
        arrived = None
        if not self.on_host:
            figures = figures.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self._unread.append((step, figures, arrived))
        return self._flags[0].clamp(max=1)

    def read(self, wait: bool = False) -> Judged | None:
        """Of the last two steps that were not read yet: the first with a bad rank, else the later one.

        Without `wait`, a GPU's last step is left for the next call: all ranks, asking alike, are told alike.
        """
        judged = None
        while len(self._unread) > (0 if wait or self.on_host else 1):
            step, figures, arrived = self._unread.popleft()
            if arrived is not None:
                arrived.synchronize()
            rank, signal, loss, norm = figures.tolist()
            judged = Judged(step, int(rank) - 1, int(signal), loss, norm)
            if judged.bad_rank >= 0:
                break
        return judged


def refuse_nonfinite(folder: Path, judged: Judged, seed: int, batch: list[int], write: bool) -> RunError:
    """The error that ends a run; `write`: also leave the failing batch in nonfinite.json for `tools/doctor.py`.

    batch: the indices of its images, over all ranks.
    """
    figures = {"loss": repr(judged.loss), "grad_norm": repr(judged.grad_norm)}  # JSON has no NaN
    if write:
        report = {"step": judged.step, "seed": seed, "rank": judged.bad_rank, **figures, "indices": batch}
        (folder / REPORT).write_text(json.dumps(report))
    return RunError(
        f"the loss or its gradient is not finite in step {judged.step + 1}, on rank {judged.bad_rank}"
        f" (rank {ranks.rank()}: loss {judged.loss:g}, gradient norm {judged.grad_norm:g}); the update was left out",
        str(folder / REPORT),
        f"the last checkpoint is kept. See it again: python tools/doctor.py replay {folder}; then try a lower rate",
    )
