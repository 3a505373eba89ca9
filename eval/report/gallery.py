"""Pictures for the report: what a method saw in training, and what its encoder gets wrong."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from eval.report.answers import Mistake
from eval.report.reconstruction import reconstruct
from ssl_cls import config
from ssl_cls.augment.apply import normalise
from ssl_cls.augment.augment import AS_USUAL, Augment, centre_boxes
from ssl_cls.data import catalog
from ssl_cls.data.batch import Batch
from ssl_cls.data.source import Source
from ssl_cls.rng import DrawKey

_THUMBNAIL = 96  # pixels; smaller images are embedded as they are
_NUM_VIEWED = 7


@dataclass(frozen=True)
class Thumbnail:
    uri: str  # data:image/png;base64,...
    alt: str
    mark: str = ""  # "same" or "other": a neighbour's class against the query's; or words to stand below


@dataclass(frozen=True)
class Picture:
    title: str
    strips: list[list[Thumbnail]]


def views(title: str, run: Path) -> Picture:
    """The first training images in one strip, and a strip for each view that the first epoch drew of them."""
    recipe = config.load(run / "recipe.yaml", [])
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    augment = Augment(recipe.views or (), source.mean, source.std)
    index, key = torch.arange(min(_NUM_VIEWED, len(source))), DrawKey(recipe.seed, 0)
    if source.size is not None:
        drawn = augment.from_pixels(source.pixels(index), index, key)
    else:
        boxes = augment.boxes(key, index, source.sizes(index))
        drawn = augment.from_crops(source.crops(index, boxes, augment.sizes, augment.interpolation[0]), index, key)
    pictures = [originals(source, index)]
    pictures += [_uint8(view, source) for kind in ("global", "local") for view in drawn[kind]]
    names = ["training image", *(f"view {number} of image" for number in range(1, len(pictures)))]
    strips = [
        [Thumbnail(uri(image), f"{name} {number}") for number, image in enumerate(batch)]
        for name, batch in zip(names, pictures, strict=True)
    ]
    return Picture(title, strips)


def reconstructions(title: str, run: Path) -> Picture | None:
    """Training images, what MAE left of them, and what it made of that; None for another method.

    Arrays are augmented as for training; files are cut as for evaluation, which leaves more to recognise.

    Raises:
        UserError: the run's checkpoint is not its recipe's.
    """
    recipe = config.load(run / "recipe.yaml", [])
    if recipe.method.name != "mae":
        return None
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    index, key = torch.arange(min(_NUM_VIEWED, len(source))), DrawKey(recipe.seed, 0)
    augment = Augment(recipe.views or (), source.mean, source.std)
    if source.size is not None:
        drawn = augment.from_pixels(source.pixels(index), index, key)
    else:
        boxes, filter_ = AS_USUAL.boxes(source.sizes(index)), AS_USUAL.interpolation
        squares = source.crops(index, [boxes], augment.sizes[:1], filter_)[0].float().div_(255)
        drawn = {"global": [normalise(squares, source.mean, source.std)], "local": []}
    found = reconstruct(recipe, source, Batch(drawn, index, key, None), run)
    if found.answer is None:
        return None
    batches = (drawn["global"][0], found.visible, found.answer)
    names = ("view" if source.size is not None else "square", "visible patches", "reconstruction")
    strips = [
        [Thumbnail(uri(image), f"{name} of image {number}") for number, image in enumerate(_uint8(batch, source))]
        for name, batch in zip(names, batches, strict=True)
    ]
    return Picture(title, strips)


def wrong(source: Source, found: Sequence[Mistake]) -> list[Thumbnail]:
    """Misjudged test images, each marked with what it is and what it was taken for."""
    if not found:
        return []
    images = originals(source, torch.tensor([mistake.image for mistake in found]))
    names = source.class_names or [f"class {k}" for k in range(source.num_classes or 0)]
    return [
        Thumbnail(uri(image), f"test image {x.image}", f"{names[x.true]} → {names[x.taken_for]}")
        for image, x in zip(images, found, strict=True)
    ]


def copies(
    title: str, training: Source, test: Source, pairs: Sequence[tuple[int, int, float]], measure: str
) -> Picture:
    """Above, test images; below each, the training image that it is most alike by `measure`."""
    above = originals(test, torch.tensor([query for query, _, _ in pairs]))
    below = originals(training, torch.tensor([place for _, place, _ in pairs]))
    strips = [
        [Thumbnail(uri(image), f"test image {query}") for image, (query, _, _) in zip(above, pairs, strict=True)],
        [
            Thumbnail(uri(image), f"training image {place}, {measure} {r:.4f}")
            for image, (_, place, r) in zip(below, pairs, strict=True)
        ],
    ]
    return Picture(title, strips)


def class_name(source: Source, label: Tensor) -> str:
    """Of int64 [], or the names of all that float [K] says an image has."""
    names = source.class_names
    numbers = [int(label)] if label.ndim == 0 else torch.nonzero(label > 0)[:, 0].tolist()
    return ", ".join(names[number] if names else f"class {number}" for number in numbers) or "no label"


def first_of_each(labels: Tensor, most: int) -> Tensor:
    """The first image of each of the first classes that there are, or with each of the first labels: int64 [<= most],
    each image once."""
    if labels.ndim == 1:
        labels = F.one_hot(labels)
    has = labels > 0
    present = torch.nonzero(has.any(0))[:most, 0]
    return torch.tensor(list(dict.fromkeys(has[:, present].int().argmax(0).tolist())))


def originals(source: Source, indices: Tensor) -> Tensor:
    """Thumbnails, uint8 [B, C, h, w]."""
    if source.size is not None:
        return source.pixels(indices).cpu()
    boxes = centre_boxes(source.sizes(indices), fraction=1.0)
    return source.crops(indices, [boxes], [_THUMBNAIL], "bilinear")[0]


def _uint8(images: Tensor, source: Source) -> Tensor:
    mean, std = (torch.tensor(x)[:, None, None] for x in (source.mean, source.std))
    return ((images.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def uri(pixels: Tensor) -> str:
    """uint8 [C, H, W] -> a PNG that a page can hold."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(np.ascontiguousarray(array.squeeze(2) if array.shape[2] == 1 else array[:, :, :3]))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
