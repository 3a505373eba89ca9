"""Batches: the same samples, pixels and labels however the work is shared out."""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_cls.augment.augment import Augment
from ssl_cls.augment.view import View
from ssl_cls.data import pack
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.batch import Batch
from ssl_cls.data.files import Files
from ssl_cls.data.own import open_own
from ssl_cls.data.packed import Packed
from ssl_cls.data.sampler import batch_indices
from ssl_cls.data.source import Source
from ssl_cls.data.stream import Stream
from ssl_cls.errors import UserError

CPU = torch.device("cpu")
BATCH = 8
VIEWS = (
    View(
        size=16,
        count=2,
        scale=(0.3, 1.0),
        flip=0.5,
        brightness=0.4,
        contrast=0.4,
        hue=0.1,
        jitter_p=0.8,
        gray=0.2,
    ),
    View(kind="local", size=8, scale=(0.05, 0.3), interpolation="bicubic", blur=0.5),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """20 training images of two classes and mixed sizes; two of the first class are cut short."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 1), ("test", 1)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (24 + number, 40, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    for number in (2, 9):
        path = root / "train" / "a" / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:900])
    return open_own(root, "train", 0.0)


def reopened(source: Files) -> Files:
    """As another process would see it: with nothing found to be bad."""
    return open_own(source.store.root, "train", 0.0)


def array() -> Arrays:
    images = torch.randint(0, 256, (27, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Arrays("x", images, torch.arange(27) % 5, list("abcde"), (0.5,) * 3, (0.25,) * 3)


def stream(source: Source, **options: object) -> Stream:
    settings = {"seed": 3, "batch_size": BATCH, "device": CPU, "needs_labels": True, "max_bad_fraction": 0.2}
    return Stream(source, Augment(VIEWS, source.mean, source.std), **(settings | options))  # type: ignore[arg-type]


def joined(parts: Sequence[Sequence[Batch]]) -> list[str]:
    """A digest of each sample of a step: parts are ranks' lists of micro-batches, in order."""
    digests = []
    for batch in (batch for rank in parts for batch in rank):
        assert batch.labels is not None
        for row, (index, label) in enumerate(zip(batch.index.tolist(), batch.labels.tolist(), strict=True)):
            digest = hashlib.sha256(repr((index, label, batch.key)).encode())
            for kind in ("global", "local"):
                for view in batch.views[kind]:
                    digest.update(view[row].numpy().tobytes())
            digests.append(digest.hexdigest())
    return digests


def digests(source: Source, steps: range, ranks: int, **options: object) -> list[list[str]]:
    streams = [
        stream(source, rank=rank, num_ranks=ranks, **options).batches(steps.start, steps.stop) for rank in range(ranks)
    ]
    return [joined(parts) for parts in zip(*streams, strict=True)]


@pytest.fixture(scope="module")
def expected(photos: Files) -> list[list[str]]:
    return digests(reopened(photos), range(5), 1, workers=0)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_pixels_do_not_depend_on_workers_or_ranks(  # X16
    photos: Files, expected: list[list[str]], ranks: int, workers: int
) -> None:
    assert digests(reopened(photos), range(3), ranks, workers=workers) == expected[:3]


def test_nor_on_micro_batches(photos: Files, expected: list[list[str]]) -> None:
    assert digests(reopened(photos), range(3), 2, workers=0, micro_batches=2) == expected[:3]


@pytest.mark.parametrize(("ranks", "micro_batches"), [(1, 4), (2, 1), (4, 2)])
def test_nor_does_an_array(ranks: int, micro_batches: int) -> None:
    assert digests(array(), range(3), ranks, micro_batches=micro_batches) == digests(array(), range(3), 1)


def test_a_stream_can_begin_anywhere(photos: Files, expected: list[list[str]]) -> None:
    """Steps 3 and 4 lie in the second epoch; the damaged images that 0 to 2 met are not known here."""
    assert digests(reopened(photos), range(3, 5), 1, workers=1) == expected[3:]
    assert digests(array(), range(2, 5), 1) == digests(array(), range(5), 1)[2:]


def test_batches_are_what_the_sampler_says(photos: Files) -> None:
    for source in (array(), reopened(photos)):
        own = stream(source, workers=0)
        assert own.steps_per_epoch == len(source) // BATCH
        for step, (batch,) in enumerate(own.batches(0, 4)):
            key, index = batch_indices(step, n=len(source), batch_size=BATCH, seed=3)
            assert batch.key == key
            assert torch.equal(batch.index, index)
            assert batch.labels is not None
            assert torch.equal(batch.labels, source.labels(index))


def test_views_of_an_array_are_those_of_its_pixels() -> None:
    source = array()
    (batch,) = next(stream(source).batches(1, 2))
    views = Augment(VIEWS, source.mean, source.std).from_pixels(source.pixels(batch.index), batch.index, batch.key)
    assert all(torch.equal(a, b) for kind in views for a, b in zip(views[kind], batch.views[kind], strict=True))


def test_views_of_files_are_cut_along_the_drawn_boxes(photos: Files) -> None:
    source = reopened(photos)
    augment = Augment(VIEWS, source.mean, source.std)
    (batch,) = next(stream(source, workers=0).batches(0, 1))
    boxes = augment.boxes(batch.key, batch.index, source.sizes(batch.index))
    crops = [
        source.crops(batch.index, [box], [size], view.interpolation)[0]
        for box, size, view in zip(boxes, augment.sizes, augment.views, strict=True)
    ]
    views = augment.from_crops(crops, batch.index, batch.key)
    assert all(torch.equal(a, b) for kind in views for a, b in zip(views[kind], batch.views[kind], strict=True))


def test_labels_come_only_where_they_are_needed() -> None:
    assert next(stream(array(), needs_labels=False).batches(0, 1))[0].labels is None


def test_torchs_own_random_state_is_left_alone(photos: Files) -> None:
    before = torch.get_rng_state()
    for source, workers in ((array(), 0), (reopened(photos), 0), (reopened(photos), 1)):
        list(stream(source, workers=workers).batches(0, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_images_end_the_stream(photos: Files, workers: int) -> None:
    batches = stream(reopened(photos), workers=workers, max_bad_fraction=0.05).batches(0, 4)
    with pytest.raises(UserError, match=r"2 of 20 images cannot be read, more than 5.00%") as refused:
        list(batches)
    assert "train/a/2.jpg" in refused.value.what
    assert "train/a/9.jpg" in refused.value.what
    assert len(list(stream(reopened(photos), workers=workers, max_bad_fraction=0.1).batches(0, 4))) == 4


def test_a_class_of_nothing_but_bad_images_is_the_users_error_from_a_worker_too(photos: Files, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                content = (photos.store.root / "train" / "b" / f"{number}.jpg").read_bytes()
                (tmp_path / split / name / f"{number}.jpg").write_bytes(content[:900] if name == "b" else content)
    source = open_own(tmp_path, "train", 0.0)
    with pytest.raises(UserError, match="no image of one label can be decoded") as refused:
        list(stream(source, workers=1, max_bad_fraction=1.0).batches(0, 1))
    assert refused.value.where == str(tmp_path)


def test_signals_to_the_process_group_do_not_end_the_workers(photos: Files, expected: list[list[str]]) -> None:
    batches = stream(reopened(photos), workers=2).batches(0, 5)
    found = [joined([next(batches)])]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    found += [joined([batch]) for batch in batches]
    assert found == expected
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


def test_a_stream_left_early_leaves_no_process_behind(photos: Files) -> None:
    batches = stream(reopened(photos), workers=2).batches(0, 1000)
    next(batches)
    workers = multiprocessing.active_children()
    del batches
    deadline = time.monotonic() + 20
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(worker.is_alive() for worker in workers)


def test_what_does_not_fit_is_refused(photos: Files) -> None:
    with pytest.raises(UserError, match="cannot be cut into 3 x 1 equal parts"):
        stream(array(), num_ranks=3)
    with pytest.raises(UserError, match="larger than the data"):
        stream(array(), batch_size=28)


def test_missing_labels_are_refused_where_they_are_needed() -> None:
    source = array()
    source._labels[4] = -1
    stream(source, needs_labels=False)
    with pytest.raises(UserError, match="needs a label for every image"):
        stream(source)


def test_a_pack_is_cut_by_threads_that_leave_torch_its_own_and_end_with_the_stream(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "in" / "train" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (24 + number, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / "train" / name / f"{number}.png")
    pack.pack({"train": open_own(tmp_path / "in", "train", 0.0)}, tmp_path / "x.pack", 32, 0.0)
    packed, before = Packed(tmp_path / "x.pack", "train"), threading.active_count()
    threads = torch.get_num_threads()
    found = [[joined([batch]) for batch in stream(packed, workers=workers).batches(0, 7)] for workers in (0, 1, 3)]
    assert found[0] == found[1] == found[2]
    batches = stream(packed, workers=2).batches(0, 1000)
    next(batches)
    assert threading.active_count() == before + 2
    assert not multiprocessing.active_children()
    del batches
    assert (threading.active_count(), torch.get_num_threads()) == (before, threads)
