"""From (source, augment, seed) to the batches of one rank: the same views whatever the workers and ranks."""

import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl_cls.augment.augment import Augment
from ssl_cls.cores import usable_cores
from ssl_cls.data import sampler
from ssl_cls.data.batch import Batch
from ssl_cls.data.files import refuse_bad
from ssl_cls.data.packed import Packed
from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey

_MAX_WORKERS = 8
_AHEAD = 2  # batches that each worker has ready, as in a DataLoader
_VALUES = 2**21  # of all views made at once, where a batch has fewer


@dataclass(frozen=True)
class _Share:
    """This rank's part of each global batch: parts rank*M .. rank*M+M-1 of num_ranks*M contiguous ones."""

    n: int
    batch_size: int
    seed: int
    micro_batches: int
    rank: int
    num_ranks: int

    def indices(self, step: int) -> tuple[DrawKey, list[Tensor]]:
        key, indices = sampler.batch_indices(step, n=self.n, batch_size=self.batch_size, seed=self.seed)
        parts = indices.chunk(self.num_ranks * self.micro_batches)
        return key, list(parts[self.rank * self.micro_batches :][: self.micro_batches])


class Stream:
    """The batches of one rank.

    Args:
        source, augment: images, and what is drawn from them.
        seed, batch_size: of the run; batch_size is global, a multiple of num_ranks * micro_batches.
        device: where views are made and batches go.
        workers: decoding processes, for sources without a fixed size; 0 decodes in this process.
        needs_labels: batches carry labels.
        max_bad_fraction: of images that cannot be decoded and are replaced; more of them end the stream.

    Raises:
        UserError: the batch does not fit data, ranks and micro-batches, or needed labels are missing.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        *,
        seed: int,
        batch_size: int,
        micro_batches: int = 1,
        rank: int = 0,
        num_ranks: int = 1,
        device: torch.device,
        workers: int | Literal["auto"] = "auto",
        needs_labels: bool = False,
        max_bad_fraction: float = 0.01,
    ) -> None:
        self.steps_per_epoch = sampler.steps_per_epoch(len(source), batch_size)
        if batch_size % (num_ranks * micro_batches):
            raise UserError(
                f"a batch of {batch_size} cannot be cut into {num_ranks} x {micro_batches} equal parts",
                "train.batch_size",
                f"use a multiple of {num_ranks * micro_batches}",
            )
        if needs_labels and (source.num_classes is None or bool((all_labels(source) < 0).any())):
            raise UserError(
                "this method needs a label for every image, and not all have one",
                source.name,
                "put every image into the sub-folder of its class",
            )
        self.source, self.augment, self.device = source, augment, device
        self.needs_labels, self.max_bad_fraction = needs_labels, max_bad_fraction
        self.workers = _usual_workers() if workers == "auto" else workers
        self.bad = dict.fromkeys(source.bad)  # "path: reason" of each image replaced so far, in the order of discovery
        self._share = _Share(len(source), batch_size, seed, micro_batches, rank, num_ranks)

    @property
    def advice(self) -> str:
        """What to change where training waits for images."""
        if self.source.size is not None:
            return "views are made on the training device: cheaper ones (fewer, smaller, without blur) cost less"
        pack = "" if isinstance(self.source, Packed) else " or decode once: python tools/data.py pack PATH --size N"
        return f"give more decoding processes than {self.workers} (data.workers=N) where cores are idle,{pack}".rstrip(
            ","
        )

    def batches(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each step in [start, stop), counted from the start of the run.

        Raises:
            UserError: while iterating, when more than `max_bad_fraction` of the images cannot be decoded.
        """
        if self.source.size is not None:
            while start < stop:
                number, together = start % self.steps_per_epoch, self._together
                first = start - number % together
                last = min(first + together, start - number + self.steps_per_epoch)
                yield from self._resident(first, last)[start - first : stop - first]
                start = last
        else:
            for step, cut in zip(range(start, stop), self._cut(start, stop), strict=True):
                key, parts = self._share.indices(step)
                with _beside(self.workers):
                    made = [
                        self.augment.from_crops([crop.to(self.device, non_blocking=True) for crop in crops], part, key)
                        for part, crops in zip(parts, cut, strict=True)
                    ]
                yield [self._batch(views, part, key) for views, part in zip(made, parts, strict=True)]

    @property
    def _together(self) -> int:
        """Steps whose views are made at once: of small images a batch is too little work for many cores."""
        values = sum((view.size or 0) ** 2 for view in self.augment.views) * self.source.channels
        return max(1, _VALUES // (values * (self._share.batch_size // self._share.num_ranks)))

    def _resident(self, first: int, last: int) -> list[list[Batch]]:
        """The micro-batches of each step in [first, last), of one epoch, from pixels that are at hand."""
        key, _ = self._share.indices(first)
        steps = [self._share.indices(step)[1] for step in range(first, last)]
        runs = [[part for parts in steps for part in parts]] if len(steps) > 1 else [[part] for part in steps[0]]
        made: list[Batch] = []
        for parts in runs:
            index = torch.cat(parts)
            views = self.augment.from_pixels(self.source.pixels(index).to(self.device), index, key)
            sizes = [len(part) for part in parts]
            cut = {kind: [torch.split(view, sizes) for view in own] for kind, own in views.items()}
            for number, part in enumerate(parts):
                own = {kind: [view[number] for view in several] for kind, several in cut.items()}
                made.append(self._batch(own, part, key))
        each = self._share.micro_batches
        return [made[n : n + each] for n in range(0, len(made), each)]

    def _batch(self, views: dict[str, list[Tensor]], part: Tensor, key: DrawKey) -> Batch:
        labels = self.source.labels(part).to(self.device, non_blocking=True) if self.needs_labels else None
        return Batch(views, part.to(self.device, non_blocking=True), key, labels)

    def _cut(self, start: int, stop: int) -> Iterator[list[list[Tensor]]]:
        """The crops of each micro-batch of each step, made ahead of time; for a GPU by processes, which pin them."""
        total = len(self.source) + len(self.source.bad)
        cuts = _Cuts(self.source, self.augment, self._share)
        pinned = self.device.type == "cuda"
        by_threads = isinstance(self.source, Packed) and self.workers > 0 and not pinned
        made = _by_threads if by_threads else partial(_by_processes, pinned=pinned)
        for cut, found in made(cuts, range(start, stop), self.workers):
            if isinstance(found, UserError):
                raise found
            self.bad.update(dict.fromkeys(found))
            refuse_bad(list(self.bad), total, self.max_bad_fraction, self.source.name)
            yield cut


_Cut = tuple[list[list[Tensor]], list[str] | UserError]


class _Cuts(Dataset[_Cut]):
    """Step -> (crops of each micro-batch, which images this process has found to be bad so far)."""

    def __init__(self, source: Source, augment: Augment, share: _Share) -> None:
        self.source, self.augment, self.share = source, augment, share

    def __getitem__(self, step: int) -> _Cut:
        key, parts = self.share.indices(step)
        try:
            return [self._crops(key, part) for part in parts], list(self.source.bad)
        except UserError as error:  # a loader would wrap it into a traceback
            return [], error

    def _crops(self, key: DrawKey, part: Tensor) -> list[Tensor]:
        boxes, sizes, filters = (
            self.augment.boxes(key, part, self.source.sizes(part)),
            self.augment.sizes,
            self.augment.interpolation,
        )
        crops: dict[int, Tensor] = {}
        for name in dict.fromkeys(filters):  # nearly always one: each decodes anew
            views = [view for view, own in enumerate(filters) if own == name]
            made = self.source.crops(part, [boxes[v] for v in views], [sizes[v] for v in views], name)
            crops.update(zip(views, made, strict=True))
        return [crops[view] for view in range(len(filters))]


@contextmanager
def _beside(workers: int) -> Iterator[None]:
    """No more threads than the decoding processes leave cores: one that has to wait for its core holds up all others,
    at every operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _by_processes(cuts: _Cuts, steps: range, workers: int, pinned: bool) -> Iterator[_Cut]:
    loader = DataLoader(
        cuts,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        worker_init_fn=_outlive_signals,
        pin_memory=pinned,
        generator=torch.Generator(),  # its own, so that torch's global state is not drawn from
    )
    yield from loader


def _by_threads(cuts: _Cuts, steps: range, workers: int) -> Iterator[_Cut]:
    """Where nothing is decoded Python is not in the way, and what passes from process to process would cost as much as
    it takes to make it."""

    def alone() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)  # of this thread; the main one says its own again with the next batch

    torch.get_num_threads()  # a thread's first call takes over what was last said in any
    pool = ThreadPoolExecutor(workers, "crops", alone)
    try:
        ahead: deque[Future[_Cut]] = deque()
        for step in steps:
            ahead.append(pool.submit(cuts.__getitem__, step))
            if len(ahead) > _AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _outlive_signals(worker: int) -> None:
    """A signal to the whole process group is for the main process to answer; it still needs its batches.

    Workers end when the main process lets go of them, or is gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _usual_workers() -> int:
    """Leave a core to the main process of each rank on this machine."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MAX_WORKERS, usable_cores() // ranks - 1))
