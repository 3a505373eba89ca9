"""How fast probes are: python tools/bench_judge.py [--rounds 3]

On random features of the size of an MNIST, alternating in one process, medians over rounds:
  sweep     the linear probe at many weight decays at once, against the encoding alone of linear_aug, the classical
            protocol: 90 epochs of augmented images (28 x 28 grey), extrapolated from a part of one, by the small
            ResNet and by ResNet-18, whose features have 512 numbers
  kNN       the nearest 20, by cosine and by two metrics, by either backend; against torch (matmul and topk in chunks)
            and faiss (IndexFlatIP) called bare, on rows that are of unit length already; and how much memory each takes
            beyond the features (Linux)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from eval.neighbours import Metric

K, CLASSES = 20, 10
EPOCHS = 90  # of the classical protocol
BATCH = 250  # images encoded at a time
ENCODERS = {"resnet_small": 1.0, "resnet18_small": 0.04}  # and the part of --batches that each encodes a round
METRICS: dict[str, tuple[Metric, ...]] = {"cosine": ("cosine",), "both": ("cosine", "centred")}
CHUNK = 250  # queries at a time of bare torch: 60 MB of similarities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternations; medians are over these")
    parser.add_argument("--images", type=int, default=60_000, help="rows of the bank, and of the probe's features")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512, help="of a feature")
    parser.add_argument("--heads", type=int, default=40, help="weight decays of the sweep")
    parser.add_argument("--batches", type=int, default=100, help=f"of {BATCH} images, encoded a round")
    args = parser.parse_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from statistics import median

    from rich.console import Console
    from rich.table import Table

    seconds, peaks = measure(args)
    size = f"{args.images:,} x {args.dim}"
    table = Table("what", "seconds", "min", "max", "MB beyond the features")
    for name, taken in seconds.items():
        table.add_row(name, *(f"{x:.2f}" for x in (median(taken), min(taken), max(taken))), f"{peaks[name]:.0f}")
    console = Console(highlight=False, width=110)
    console.print(table)

    for name, share in ENCODERS.items():
        batches, rates = part_of(args.batches, share), seconds[f"encoding, {name}"]
        scale = EPOCHS * args.images / (batches * BATCH)
        faster = median(scale * a / b for a, b in zip(rates, seconds["sweep"], strict=True))
        console.print(
            f"sweep: {args.heads} heads on {size}, {faster:,.0f} times as fast as {EPOCHS} epochs of encoding by "
            f"{name}, which take {scale * median(rates):,.0f} s, extrapolated from {args.rounds * batches} batches"
        )
    bare = [min(pair) for pair in zip(seconds["bare torch"], seconds["bare faiss"], strict=True)]
    ratios = {
        f"{backend}, {metrics}": median(a / b for a, b in zip(seconds[f"kNN, {backend}, {metrics}"], bare, strict=True))
        for metrics in METRICS
        for backend in ("torch", "faiss")
    }
    told = ", ".join(f"{ratio:.2f} ({how})" for how, ratio in ratios.items())
    console.print(f"kNN: {args.queries:,} queries of {size}, {told} times the seconds of the faster bare one")
    return 0


def measure(args: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each part, one figure a round, and the MB that it took in the first."""
    import time
    from functools import partial

    import torch

    from eval.heads import fit
    from eval.linear_aug import crops
    from ssl_cls.augment.augment import Augment
    from ssl_cls.backbone import Backbone, BackboneConfig, build
    from ssl_cls.rng import DrawKey

    bank, queries, labels = features(args.images, args.queries, args.dim)
    decays = torch.logspace(-5, 0, args.heads)
    augment = Augment(crops(28, 1), (0.5,), (0.3,))
    pixels = torch.randint(0, 256, (BATCH, 1, 28, 28), dtype=torch.uint8)

    def encode(network: Backbone, batches: int) -> None:
        with torch.inference_mode():
            for number in range(batches):
                index = torch.arange(BATCH) + number * BATCH
                (views,) = augment.from_pixels(pixels, index, DrawKey(0, 0))["global"]
                network.features(views.contiguous(memory_format=torch.channels_last))

    parts: dict[str, Callable[[], Any]] = {
        **searches(bank, queries),
        "sweep": lambda: fit(bank, labels, num_classes=CLASSES, weight_decay=decays),
    }
    for name, share in ENCODERS.items():
        network = build(BackboneConfig(name, "avg"), 1, 28).eval()
        parts[f"encoding, {name}"] = partial(encode, network, part_of(args.batches, share))
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    peaks: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, part in parts.items():
            before = forget_peak()
            begun = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - begun)
            peaks.setdefault(name, (memory("VmHWM") - before) / 1e6)
    return seconds, peaks


def part_of(batches: int, share: float) -> int:
    return max(1, round(batches * share))


def features(images: int, queries: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """A bank float32 [images, dim], queries [queries, dim] and the bank's labels: classes overlap, means are not 0."""
    import torch

    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, dim, generator=generator)
    labels, asked = (torch.arange(n) % CLASSES for n in (images, queries))
    bank, rows = (torch.randn(len(y), dim, generator=generator).mul_(3).add_(1).add_(means[y]) for y in (labels, asked))
    return bank, rows, labels


def searches(bank: Tensor, queries: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The ways to the rows of the bank nearest to each query, int64 [N, K]."""
    from functools import partial

    import faiss
    import torch
    from torch.nn import functional as F

    from eval.neighbours import nearest, nearest_by_faiss

    unit, asked = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    faiss.omp_set_num_threads(torch.get_num_threads())

    def found(way: Any, metrics: tuple[Metric, ...]) -> Tensor:
        return way(bank, queries, K, metrics)[0].rows  # type: ignore[no-any-return]

    def bare_faiss() -> Tensor:
        index = faiss.IndexFlatIP(unit.shape[1])
        index.add(unit.numpy())
        return torch.from_numpy(index.search(asked.numpy(), K)[1])

    def bare_torch() -> Tensor:
        return torch.cat([(part @ unit.T).topk(K, dim=1).indices for part in asked.split(CHUNK)])

    ways = {"torch": nearest, "faiss": nearest_by_faiss}
    return {
        **{
            f"kNN, {backend}, {metrics}": partial(found, way, names)
            for metrics, names in METRICS.items()
            for backend, way in ways.items()
        },
        "bare torch": bare_torch,
        "bare faiss": bare_faiss,
    }


def forget_peak() -> float:
    """Bytes in use now; the kernel's record of the most there were starts from here."""
    if (clear := Path("/proc/self/clear_refs")).exists():
        clear.write_text("5")
    return memory("VmRSS")


def memory(field: str) -> float:
    """Bytes, by /proc; where there is none, nan."""
    if not (status := Path("/proc/self/status")).exists():
        return float("nan")
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return 1024 * float(line.split()[1])


if __name__ == "__main__":
    main()
