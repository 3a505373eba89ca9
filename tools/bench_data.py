"""How fast images come: python tools/bench_data.py [--size 224] [--rounds 5]

JPEGs of 500 x 375 to two resized crops an image, flipped and normalised, by two workers; alternating, medians:
  torchvision   ImageFolder, RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize in a DataLoader
  files         our stream of the same files
  pack          our stream of a pack of them, shorter side 256
Then the sampler: which images are in a batch of 4,096 of a billion.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="side of the views")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes, of a pack threads")
    parser.add_argument("--rounds", type=int, default=5, help="alternations; medians are over these")
    parser.add_argument("--batches", type=int, default=30, help="timed a round")
    args = parser.parse_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    import statistics
    import tempfile

    from rich.console import Console
    from rich.table import Table

    with tempfile.TemporaryDirectory() as folder:
        rates = measure(args, Path(folder))
    table = Table("what", "images/s", "min", "max", "of torchvision, median of rounds")
    for name, own in rates.items():
        ratio = statistics.median(a / b for a, b in zip(own, rates["torchvision"], strict=True))
        table.add_row(name, *(f"{x:,.0f}" for x in (statistics.median(own), min(own), max(own))), f"{ratio:.2f}")
    console = Console(highlight=False, width=100)
    console.print(table)
    each, extra = sampler()
    console.print(
        f"4,096 of 1,000,000,000 images: {each[0]:.1f} ms a batch in order, {each[1]:.1f} ms for one of any step "
        f"(medians), {extra:.0f} MB more resident memory"
    )
    return 0


BATCH = 64


def sampler() -> tuple[tuple[float, float], float]:
    """Milliseconds a batch, as mean over blocks in order, and of steps far apart; and the memory that it took, MB."""
    import resource
    import statistics
    import time

    from ssl_cls.data.sampler import batch_indices

    def taken(steps: range) -> float:
        begun = time.perf_counter()
        for step in steps:
            batch_indices(step, n=10**9, batch_size=4096, seed=0)
        return 1e3 * (time.perf_counter() - begun) / len(steps)

    taken(range(8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    in_order = statistics.median(taken(range(first, first + 16)) for first in range(1000, 1480, 16))
    apart = statistics.median(taken(range(step, step + 1)) for step in range(2000, 200_000, 6600))
    return (in_order, apart), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Images a second of each way, one figure a round; the first round warms up and is left out."""
    import itertools
    import time
    from collections.abc import Callable, Iterator

    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from ssl_cls import launch
    from ssl_cls.augment.augment import Augment
    from ssl_cls.augment.view import View
    from ssl_cls.data import pack
    from ssl_cls.data.own import open_own
    from ssl_cls.data.packed import Packed
    from ssl_cls.data.source import Source
    from ssl_cls.data.stream import Stream

    launch.keep_freed_memory()
    images = folder / "images"
    _write_jpegs(images, BATCH * (args.batches + 1))
    files = open_own(images, "train", 0.0)
    pack.pack({"train": files}, folder / "images.pack", 256, 0.0)
    packed = Packed(folder / "images.pack", "train")
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(args.size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(files.mean, files.std),
        ]
    )
    theirs = ImageFolder(str(images / "train"), lambda image: (view(image), view(image)))

    def torchvision() -> Iterator[object]:
        return iter(DataLoader(theirs, BATCH, shuffle=True, drop_last=True, num_workers=args.workers))

    def ours(source: Source) -> Iterator[object]:
        augment = Augment((View(size=args.size, count=2, scale=(0.08, 1.0), flip=0.5),), source.mean, source.std)
        cpu = torch.device("cpu")
        stream = Stream(source, augment, seed=0, batch_size=BATCH, device=cpu, workers=args.workers)
        return stream.batches(0, args.batches + 1)

    ways: dict[str, Callable[[], Iterator[object]]] = {
        "torchvision": torchvision,
        "files": lambda: ours(files),
        "pack": lambda: ours(packed),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, args.rounds):
        for name, way in ways.items():
            batches = way()
            next(batches)  # processes have started
            begun = time.perf_counter()
            count = sum(1 for _ in itertools.islice(batches, args.batches))
            if number >= 0:
                rates[name].append(count * BATCH / (time.perf_counter() - begun))
            del batches
    return rates


def _write_jpegs(folder: Path, count: int) -> None:
    """Pictures of natural statistics (1/f in amplitude), about 100 kB each, all of them in `train/a` and `train/b`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(500), np.fft.fftfreq(375)))
    frequency[0, 0] = np.inf
    for name in "ab":
        (folder / "train" / name).mkdir(parents=True)
    pictures = []
    for _ in range(8):
        spectrum = np.fft.fft2(rng.normal(size=(3, 375, 500))) / frequency
        waves = np.fft.ifft2(spectrum).real
        waves = waves.mean(0) + 0.4 * waves  # colours of a picture go together
        waves = (waves - waves.mean()) / waves.std() * 50 + 120
        pictures.append(waves.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    for number in range(count):
        turned = np.roll(pictures[number % 8], int(rng.integers(500)), 1)
        Image.fromarray(turned).save(folder / "train" / "ab"[number % 2] / f"{number}.jpg", quality=90)


if __name__ == "__main__":
    main()
