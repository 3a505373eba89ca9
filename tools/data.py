"""Get and check data sets: python tools/data.py get NAME [--dir DIR] | check NAME [--dir DIR]

python tools/data.py get fashion_mnist                 into data/, verified
python tools/data.py check fashion_mnist               counts, splits, classes, mean and std
python tools/data.py check folder --dir photos         the same, after decoding every image
"""

import argparse
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ssl_cls.data.source import Source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("get", help="fetch a data set and verify every byte; nothing to do if it is there")
    get.add_argument("name", choices=["fashion_mnist"])
    get.add_argument("--dir", default="data", help="where data sets are kept (default: data)")
    check = commands.add_parser("check", help="open all splits, decode every image, and show what is there")
    check.add_argument("name", choices=["fashion_mnist", "digits", "folder"])
    check.add_argument("--dir", help="of images for `folder`, else where data sets are kept (default: data)")
    args = parser.parse_args()
    if args.name == "folder" and args.dir is None:
        parser.error("which folder? add --dir DIR")

    from ssl_cls.screen import guarded

    guarded(lambda: fetched(args) if args.command == "get" else checked(args))


def fetched(args: argparse.Namespace) -> None:
    from pathlib import Path

    from ssl_cls.data import fetch

    folder = fetch.get(fetch.FASHION_MNIST, Path(args.dir))
    print(f"{args.name} is in {folder}, verified: SHA-256 of {len(fetch.FASHION_MNIST.files)} files")


def checked(args: argparse.Namespace) -> int:
    """0, or 1 if any image cannot be read."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ssl_cls.data import catalog
    from ssl_cls.data.source import all_labels
    from ssl_cls.errors import UserError

    config = catalog.DataConfig(source=args.name, path=args.dir, max_bad_fraction=1.0)
    console = Console(highlight=False)
    splits: dict[str, Source] = {}
    for split in get_args(catalog.Split):
        try:
            splits[split] = catalog.open(config, split)
        except UserError:
            if split == "train":
                raise
            console.print(f"[yellow]there is no {split} split[/yellow]")
    source = splits["train"]

    table = Table("", *splits, title=Text(f"{args.name}: {source.channels} x {source.size or 'various sizes'}"))
    table.add_row("images", *(f"{len(split):,}" for split in splits.values()))
    pixels = {name: _statistics(split, console) for name, split in splits.items()}
    table.add_row("mean", *(mean for mean, _ in pixels.values()))
    table.add_row("std", *(std for _, std in pixels.values()))
    table.add_row("sha256", *(split.fingerprint[:12] for split in splits.values()))
    if source.class_names:
        table.add_section()
        labels = [all_labels(split) for split in splits.values()]
        for number, name in enumerate(source.class_names):
            table.add_row(Text(name), *(f"{int((own == number).sum()):,}" for own in labels))
        table.add_row("[dim]no label[/dim]", *(f"{int((own < 0).sum()):,}" for own in labels))
    console.print(table)
    console.print(f"used to normalise: mean {source.mean}, std {source.std}")

    bad = [line for split in splits.values() for line in split.bad]
    for line in bad:
        console.print(Text(f"cannot be read: {line}", style="red"))
    return 1 if bad else 0


def _statistics(source: "Source", console: "Console") -> tuple[str, str]:
    """Mean and standard deviation per channel of all pixels in [0, 1]; those of a folder at 32 x 32."""
    import torch
    from rich.progress import track

    from ssl_cls.augment.augment import centre_boxes

    total = torch.zeros(2, source.channels, dtype=torch.float64)
    count = 0
    for part in track(
        torch.arange(len(source)).split(256),
        source.name,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        if source.size is None:
            images = source.crops(part, [centre_boxes(source.sizes(part), 1.0)], [32], "bilinear")[0]
        else:
            images = source.pixels(part)
        values = images.double() / 255
        total += torch.stack((values.sum((0, 2, 3)), values.square().sum((0, 2, 3))))
        count += values[:, 0].numel()
    mean = total[0] / count
    std = (total[1] / count - mean.square()).sqrt()
    return _row(mean), _row(std)


def _row(values: "Tensor") -> str:
    return " ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    main()
