"""ImageNet's ILSVRC layout: class folders named by WordNet identifiers, and labels of val in the devkit."""

from pathlib import Path

import torch

from ssl_cls.data import scan
from ssl_cls.data.entry import Part
from ssl_cls.data.formats.class_folders import class_folders
from ssl_cls.data.formats.matlab import read_mat
from ssl_cls.errors import UserError

_DEVKIT = "ILSVRC2012_devkit_t12/data"


def imagenet(folder: Path, part: str) -> Part:
    """Russakovsky et al. 2015. Part `train`: train/n01440764/*.JPEG. Part `val`: its 50,000 files as they come
    from the archive, or sorted into class folders as train's.

    Classes are numbered by their identifiers in order, as all published models are; names are the devkit's.
    """
    words, wnids = _synsets(folder)
    if part == "train" or any(path.is_dir() for path in (folder / "val").iterdir()):
        return class_folders({"train": "train", "val": "val"}, words, folder, part)
    truth = folder / _DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
    numbers = {name: n for n, name in enumerate(sorted(p.name for p in (folder / "train").iterdir() if p.is_dir()))}
    try:
        own = [wnids[int(line)] for line in truth.read_text(encoding="ascii").split()]
        labels = torch.tensor([numbers[wnid] for wnid in own])
    except (ValueError, KeyError) as error:
        raise UserError(f"a label that is no class of train: {error}", str(truth), "unpack the devkit again") from error
    paths = [f"val/{path}" for path in scan.image_files(folder / "val")]
    if len(paths) != len(labels):
        raise UserError(f"{len(paths)} images and {len(labels)} labels", str(truth), "unpack val or the devkit again")
    return Part(paths, labels, [words.get(name, name) for name in numbers])


def _synsets(folder: Path) -> tuple[dict[str, str], dict[int, str]]:
    """Words of each identifier, and the identifier of each number that the devkit gives to a class."""
    synsets = read_mat(folder / _DEVKIT / "meta.mat", "synsets")["synsets"]
    leaves = [row for row in synsets if int(row["num_children"]) == 0]
    words = {str(row["WNID"]): str(row["words"]).split(", ")[0] for row in leaves}
    return words, {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
