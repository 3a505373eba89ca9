"""A directory of images: labels and splits from where its files lie."""

import os
from pathlib import Path

import numpy as np
import torch

from ssl_cls.data import scan
from ssl_cls.data.files import Store
from ssl_cls.data.listing import Found


def list_folder(root: Path) -> Found:
    """The images below `root`, with the labels and splits that their places mean.

    Labels are the first-level sub-folders, where there are two or more. Splits: if all sub-folders are named
    train, val or test, and train is there, they are the splits, and labels are looked for inside them. A
    split that has no folder is held out from the images of train, or from all; see `splits.hold_out`.

    Raises:
        UserError: no such folder, no right to read it, no images, or a class that train does not have.
    """
    paths = scan.image_files(root)
    given, classes, class_names = scan.places(paths)
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = torch.tensor([numbers.get(name, -1) for name in classes])
    store = Store(root, np.array([os.fsencode(path) for path in paths]))
    return Found(root.resolve().name, store, labels, class_names or None, given)
