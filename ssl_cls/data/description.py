"""What a person wants to know of a published data set before it is used: tools/data.py info."""

from pathlib import Path

from ssl_cls.data import fetch
from ssl_cls.data.entry import Entry, missing, place

_NAMED = 10  # classes that are shown


def describe(name: str, entry: Entry, root: Path) -> list[tuple[str, str]]:
    """Labels and texts, in order. Names of classes are read from the files, where these are below `root`."""
    folder = place(name, entry, root)
    splits = {split: " + ".join(entry.parts(split)) for split in ("train", "val", "test")}
    if entry.test is None:
        splits["test"] = f"a fifth of {entry.train[0]}, class by class, by a hash"
    if entry.val is None:
        splits["val"] = f"a tenth of the labelled {entry.train[0]}, by a hash"
    wrong = "" if entry.flip else "left-right flips: a mirrored digit or letter is another one, or none"
    statistics = (
        "{} and {}".format(*entry.normalisation) if entry.normalisation else "of a sample of the training images"
    )
    needs, absent = list(entry.needs), missing(entry, folder)
    gets = [f"{file.url}  MD5 {file.md5 or 'unknown: none is published'}" for file in entry.get]
    if name == fetch.FASHION_MNIST.name:
        needs = list(fetch.FASHION_MNIST.files)
        absent = [file for file in needs if not (folder / file).exists()]
        gets = [
            f"{fetch.mirrors()[0]}{file}.gz  SHA-256 of what is in it {own.sha256}"
            for file, own in fetch.FASHION_MNIST.files.items()
        ]
    names = [] if absent else entry.read(folder, entry.train[0]).class_names
    lines = {
        "what": entry.title,
        "source": entry.url,
        "licence": entry.licence,
        "published": ", ".join(f"{part} {count:,}" for part, count in entry.counts.items()) + " images",
        "classes": f"{entry.num_classes:,}" + (f": {_shortened(names)}" if names else ""),
        "our splits": "; ".join(f"{split}: {text}" for split, text in splits.items()),
        "mean, std": statistics,
        "wrong for it": wrong or "no augmentation that is usual",
        "folder": str(folder),
        "needs": ", ".join(needs) or "nothing that you need to put there",
        "missing": ", ".join(absent) or "nothing",
        "by hand": entry.how,
    }
    return [(label, text) for label, text in lines.items() if text] + [("get", own) for own in gets]


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", ... {names[-1]}" if len(names) > _NAMED else "")
