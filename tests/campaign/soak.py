"""A long run with decoding workers, killed once a minute: memory, descriptors and shared memory stay flat."""

import random
import time
from pathlib import Path
from typing import NamedTuple

from campaign import Row, lives, run_folder, streams, write_recipe
from ssl_cls import checkpoint

_WARM_SECONDS = 15.0  # of a life, from its first line on, before its figures count
_MAX_GROWTH = 24 << 20  # bytes of resident memory within a minute's life, beyond the allocator's breath


class Sample(NamedTuple):
    resident: int  # bytes
    descriptors: int
    shared: int  # files in /dev/shm


def sample(pid: int) -> Sample:
    process = Path("/proc") / str(pid)
    pages = int((process / "statm").read_text().split()[1])
    shared = Path("/dev/shm")
    return Sample(pages * 4096, len(list((process / "fd").iterdir())), len(list(shared.iterdir())))


def run(minutes: int, folder: Path, seed: int = 0) -> list[Row]:
    """A life a minute; a row of kills after which the run went on, and one of lives whose figures were flat."""
    chance = random.Random(seed)
    streams.images(folder / "images", 120)
    recipe = write_recipe(folder, "simclr", epochs=100_000, checkpoint_every_steps=2, log_every_steps=1)
    text = recipe.read_text().replace("batch_size: 64", "batch_size: 32")
    # small views: a step takes a tenth of a second, so that a minute has hundreds, and a leak would show
    data = "{source: folder, path: images, size: 64, workers: 2, max_bad_fraction: 0.5}"
    recipe.write_text(text.replace("{source: digits}", data))
    run, went_on, flat, figures = run_folder(folder, "simclr"), 0, 0, []
    shared_before = len(list(Path("/dev/shm").iterdir()))
    steps_before = -1
    for _ in range(minutes):
        before, life = lives.logged(run), lives.forked(folder, [recipe.name])
        lives.until(lambda before=before, life=life: life.ended() or lives.logged(run) != before, 300)  # type: ignore[misc]
        begun = time.monotonic()
        ends = begun + 60 + chance.uniform(-5, 5)
        samples: list[Sample] = []
        while time.monotonic() < ends and not life.ended():
            if time.monotonic() - begun > _WARM_SECONDS:
                samples.append(sample(life.pid))
            time.sleep(1)
        assert not life.ended(), life.said()
        life.kill()
        life.wait()
        lives.until(lambda: not lives.members(folder), 10)
        newest = checkpoint.newest(run / "checkpoints")
        steps = int(newest.name.removeprefix("step_")) if newest is not None else -1
        went_on += steps > steps_before and not lives.members(folder)
        steps_before = steps
        half = len(samples) // 2
        growth = max(s.resident for s in samples[half:]) - max(s.resident for s in samples[:half])
        descriptors = [s.descriptors for s in samples]
        flat += growth < _MAX_GROWTH and max(descriptors) - min(descriptors) <= 4
        figures.append((growth, max(descriptors), max(s.resident for s in samples)))
    left = len(list(Path("/dev/shm").iterdir())) - shared_before
    growth, descriptors_at_most, _ = (max(column) for column in zip(*figures, strict=True))
    peaks = [peak >> 20 for _, _, peak in figures]
    note = f"{steps_before} steps; resident {peaks[0]} MB in the first life, {peaks[-1]} in the last, "
    note += (
        f"{growth / 2**20:+.1f} within one at most; {descriptors_at_most} descriptors; {left} files left in /dev/shm"
    )
    kills = Row("soak: a kill a minute, the run goes on", minutes, went_on)
    return [kills, Row("soak: a life is flat", minutes, flat, note)]
