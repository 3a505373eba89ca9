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

    Labels are the first-level sub-folders, where there are two or more. Splits: if sub-folders are named train
    and val or test, in small or capital letters, or as others call them (`splits.NAMES`), they are the splits, and
    labels are looked for inside them; train alone is one if nothing but `unlabeled` is beside it. What lies beside
    given splits, files too, are images to train on without a label. A split that has no folder is held out from the
    images of train, or from all; see `splits.hold_out`.

    Raises:
        UserError: no such folder, no right to read it, no images, or a class that train does not have; or folders
            that may be splits or classes, such as train beside bus, or splits inside of other folders.
    """
    paths = scan.image_files(root)
    given, classes, class_names = scan.places(paths)
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = torch.tensor([numbers.get(name, -1) for name in classes])
    store = Store(root, np.array([os.fsencode(path) for path in paths]))
    return Found(root.resolve().name, store, labels, class_names or None, given)
