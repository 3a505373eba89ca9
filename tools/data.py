"""Published data sets and your own: python tools/data.py list | info NAME | get NAME | verify NAME | pack PATH

python tools/data.py list                              every data set with its images, classes, and whether it is here
python tools/data.py info cifar10                      splits, licence, source, checksums; what to put where
python tools/data.py get cifar10                       into data/, resumed where it broke off, checksums compared
python tools/data.py verify cifar10                    checksums, counts and labels; every image is decoded
python tools/data.py verify folder --dir photos        the same of your own images
python tools/data.py pack photos --size 256            decode them once: photos-256.pack is trained on with data.path=
python tools/data.py pack photos --size 256 data.labels=labels.csv     with labels; data.window= likewise
"""

import argparse
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ssl_cls.data.catalog import DataConfig
    from ssl_cls.data.source import Source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in {
        "list": "every data set that is known by name",
        "info": "what a data set is, where it comes from, and what is wrong for it",
        "get": "fetch a data set and compare its checksums; nothing to do if it is there",
        "verify": "open all splits, decode every image, and show what is there",
    }.items():
        own = commands.add_parser(command, help=text, aliases=["check"] if command == "verify" else [])
        if command != "list":
            own.add_argument("name", help="of a data set" + (", or `folder`" if command == "verify" else ""))
        own.add_argument("--dir", help="where data sets are kept (default: data); of `folder`, the images")
        if command == "verify":
            own.add_argument("--labels", help="of `folder`: a manifest with labels for some or all images")
            own.add_argument("--window", help="of `folder`: which values of deep pixels are 0 and 255, as LOW,HIGH")
    packing = commands.add_parser("pack", help="decode images once, for training that need not; resumes")
    packing.add_argument("path", help="your own images: a folder, a manifest, tar shards or Parquet")
    packing.add_argument("--size", type=int, required=True, help="pixels that no shorter side is to exceed")
    packing.add_argument("--out", help="the pack (default: PATH-SIZE.pack)")
    packing.usage = packing.format_usage().strip().removeprefix("usage: ") + " [data.key=value ...]"
    args, more = parser.parse_known_args()  # overrides may stand before and after options, which argparse cannot say
    if strange := [one for one in more if args.command != "pack" or one.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if args.command in ("verify", "check") and args.name == "folder" and args.dir is None:
        parser.error("which folder? add --dir DIR")

    from ssl_cls.screen import guarded

    commands_by_name = {"list": listed, "info": described, "get": fetched, "verify": verified, "check": verified}
    guarded(lambda: packed(args, more) if args.command == "pack" else commands_by_name[args.command](args))


def listed(args: argparse.Namespace) -> None:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from ssl_cls.data.entries import ENTRIES
    from ssl_cls.data.entry import missing, place

    table = Table("name", "what", "images", "classes", "here", box=None, header_style="bold", padding=(0, 2, 0, 0))
    root = Path(args.dir or "data")
    for name, entry in sorted(ENTRIES.items()):
        here = not missing(entry, place(name, entry, root)) and name not in ("fashion_mnist", "digits")
        state = "by need" if not entry.needs else "yes" if here else "" if entry.get else "by hand"
        table.add_row(name, entry.title, f"{sum(entry.counts.values()):,}", f"{entry.num_classes:,}", state)
    Console(highlight=False).print(table)


def described(args: argparse.Namespace) -> None:
    from pathlib import Path

    from rich.console import Console

    from ssl_cls.data.description import describe

    console = Console(highlight=False)
    for label, text in describe(*_entry(args.name), Path(args.dir or "data")):
        console.print(f"[bold]{label:14}[/bold]", end="")
        console.print(text, markup=False, soft_wrap=True)


def fetched(args: argparse.Namespace) -> None:
    from pathlib import Path

    from ssl_cls.data import download, fetch

    root = Path(args.dir or "data")
    name, entry = _entry(args.name)
    if name == "fashion_mnist":
        folder = fetch.get(fetch.FASHION_MNIST, root)
        print(f"{name} is in {folder}, verified: SHA-256 of {len(fetch.FASHION_MNIST.files)} files")
        return
    folder = download.get(name, entry, root)
    unknown = [file.name for file in entry.get if file.md5 is None]
    print(f"{name} is in {folder}" + (f"; no checksum is published of {', '.join(unknown)}" if unknown else ""))


def packed(args: argparse.Namespace, overrides: list[str]) -> int:
    """0; or 1 if there is such a pack already, and it has been changed."""
    from pathlib import Path

    from rich.progress import Progress

    from ssl_cls.data import pack
    from ssl_cls.data.catalog import OWN, open_splits
    from ssl_cls.data.packed import is_pack
    from ssl_cls.errors import UserError

    if args.size < 1:
        raise UserError(f"no image has a size of {args.size}", "--size", "give a number of pixels, such as 256")
    config = _packing(args.path, overrides)
    path = Path(args.path).expanduser().resolve()
    target = Path(args.out) if args.out else path.with_name(f"{path.stem}-{args.size}.pack")
    with Progress(transient=True) as bar:
        if is_pack(target):
            task = bar.add_task(f"verifying {target.name}")
            wrong = pack.verify(target, lambda done, total: bar.update(task, completed=done, total=total))
            if not wrong and path.exists() and not pack.is_of(target, pack.encoded(open_splits(config)), args.size):
                what = "there is a pack of this name, and it was made of other images or labels"
                raise UserError(what, str(target), "remove it, or give another --out")
            print("\n".join(wrong) if wrong else f"{target} is there already, and whole")
            return 1 if wrong else 0
        files = pack.encoded(open_splits(config))
        task = bar.add_task(f"packing {target.name}")
        pack.pack(
            files, target, args.size, config.max_bad_fraction, lambda n, of: bar.update(task, completed=n, total=of)
        )
    print(f"{target}: train on it with data.source={OWN} data.path={target}")
    return 0


def _packing(path: str, overrides: list[str]) -> "DataConfig":
    """What is packed. Raises: UserError: an override that is for training, or wrong."""
    import difflib
    import json

    from ssl_cls import config
    from ssl_cls.data.catalog import OWN, DataConfig
    from ssl_cls.errors import UserError

    keys = ("data.labels", "data.window", "data.max_bad_fraction")
    for override in overrides:
        if (key := override.partition("=")[0]) not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            fix = f"did you mean {near[0]}?" if near else f"packing takes {', '.join(keys)}"
            raise UserError(f"packing has no setting {key!r}", override, fix)
    text = json.dumps({"source": OWN, "path": path})
    return config.parse(DataConfig, text, "pack", [override.removeprefix("data.") for override in overrides])


def _entry(name: str):  # type: ignore[no-untyped-def]
    import difflib

    from ssl_cls.data.entries import ENTRIES
    from ssl_cls.errors import UserError

    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=1)
        fix = f"did you mean {near[0]}?" if near else "python tools/data.py list shows those there are"
        raise UserError(f"no data set named {name!r}", "NAME", fix)
    return name, ENTRIES[name]


def verified(args: argparse.Namespace) -> int:
    """0, or 1 if any image cannot be read or the counts are not the published ones."""
    import json
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ssl_cls.config import parse
    from ssl_cls.data import catalog, download
    from ssl_cls.data.entry import place
    from ssl_cls.data.source import all_labels

    entry = None if args.name == catalog.OWN else _entry(args.name)[1]
    given = {"source": args.name, "path": args.dir, "max_bad_fraction": 1.0, "labels": args.labels}
    window = [f"window=[{args.window}]"] if args.window else []
    config = parse(catalog.DataConfig, json.dumps(given), "verify", window)
    console = Console(highlight=False)
    splits = catalog.open_splits(config)
    for split in get_args(catalog.Split):
        if split not in splits:
            console.print(f"[yellow]there is no {split} split[/yellow]")
    source = splits["train"]
    found = sum(len(split) + len(split.bad) for split in splits.values())

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
            table.add_row(Text(name), *(f"{_count(own, number):,}" for own in labels))
        table.add_row("[dim]no label[/dim]", *(f"{_unlabelled(own):,}" for own in labels))
    console.print(table)
    console.print(f"used to normalise: mean {source.mean}, std {source.std}")

    bad = [line for split in splits.values() for line in split.bad]
    for line in bad:
        console.print(Text(f"cannot be read: {line}", style="red"))
    if entry is None:
        if others := catalog.passed_over(config):
            console.print(Text(f"passed over: {others}", style="yellow"))
        return 1 if bad else 0
    folder = place(args.name, entry, Path(args.dir or "data"))
    for file in entry.get:
        if (folder / file.name).exists():
            download.check(file, folder / file.name)
    wrong = _differences(entry, found, source.class_names or [])
    for line in wrong:
        console.print(Text(line, style="red"))
    return 1 if bad or wrong else 0


def _differences(entry, images: int, classes: list[str]) -> list[str]:  # type: ignore[no-untyped-def]
    """What is not as published: the counts of images and of classes, and where it is known which classes these are."""
    from hashlib import sha256

    wrong = []
    if images != (published := sum(entry.counts.values())):
        wrong.append(f"{images:,} images where {published:,} are published")
    if len(classes) != entry.num_classes:
        wrong.append(f"{len(classes)} classes where {entry.num_classes} are published")
    elif entry.classes and sha256(" ".join(sorted(classes)).encode()).hexdigest() != entry.classes:
        wrong.append(f"other classes than those of {entry.url}: results do not compare with what others report")
    return wrong


def _count(labels: "Tensor", number: int) -> int:
    """Images of a class."""
    return int((labels == number if labels.ndim == 1 else labels[:, number] == 1).sum())


def _unlabelled(labels: "Tensor") -> int:
    return int((labels < 0 if labels.ndim == 1 else (labels < 0).all(1)).sum())


def _statistics(source: "Source", console: "Console") -> tuple[str, str]:
    """Mean and standard deviation per channel of all pixels in [0, 1]; those of a folder at 32 x 32."""
    import torch
    from rich.progress import track

    from ssl_cls.augment.augment import centre_boxes
    from ssl_cls.data.statistics import moments

    parts = track(
        torch.arange(len(source)).split(256),
        source.name,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    if source.size is None:
        images = (source.crops(p, [centre_boxes(source.sizes(p), 1.0)], [32], "bilinear")[0] for p in parts)
    else:
        images = (source.pixels(p) for p in parts)
    mean, std = moments(images)
    return _row(mean), _row(std)


def _row(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    main()
