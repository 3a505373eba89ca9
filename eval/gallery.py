"""Pictures for the report: what a method saw in training, and what an encoder finds alike."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from eval import encoders, features
from eval.base import Context, EvalData
from eval.data import shown
from eval.record import Row
from ssl_cls import config
from ssl_cls.augment.augment import Augment, centre_boxes
from ssl_cls.data import catalog
from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey

_THUMBNAIL = 96  # pixels; smaller images are embedded as they are
_NUM_VIEWED = 7
_NUM_QUERIES, _NUM_NEIGHBOURS = 8, 6


@dataclass(frozen=True)
class Thumbnail:
    uri: str  # data:image/png;base64,...
    alt: str
    mark: str = ""  # "same" or "other": a neighbour's class against the query's


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
    pictures = [_originals(source, index)]
    pictures += [_uint8(view, source) for kind in ("global", "local") for view in drawn[kind]]
    names = ["training image", *(f"view {number} of image" for number in range(1, len(pictures)))]
    strips = [
        [Thumbnail(_uri(image), f"{name} {number}") for number, image in enumerate(batch)]
        for name, batch in zip(names, pictures, strict=True)
    ]
    return Picture(title, strips)


def neighbours(title: str, spec: str, row: Row, data: EvalData, context: Context) -> Picture:
    """The first test image of each class (up to eight) with its nearest training images by cosine.

    Raises:
        UserError: the encoder of the row is not to be had, or its features have not been kept.
    """
    encoder = encoders.load(spec, data, row.seed)
    data = shown(data, encoder.channels)
    if encoder.sha256 != row.encoder_sha256:
        raise UserError("these are not the weights that were evaluated", spec)
    if not all(features.cached(encoder, source, context) for source in (data.train, data.test)):
        raise UserError("its features are no longer kept", spec, "python tools/evaluate.py ENCODER")
    bank, test = (F.normalize(features.extract(encoder, x, context), dim=1) for x in (data.train, data.test))
    labels, test_labels = all_labels(data.train), all_labels(data.test)
    classes = sorted(set(test_labels.tolist()))[:_NUM_QUERIES]
    queries = torch.tensor([int((test_labels == label).nonzero()[0]) for label in classes])
    nearest = (test[queries] @ bank.T).topk(min(_NUM_NEIGHBOURS, len(bank)), dim=1).indices
    strips = []
    for query, found, image in zip(queries, nearest, _originals(data.test, queries), strict=True):
        label = test_labels[query]
        strip = [Thumbnail(_uri(image), f"test image {int(query)}: {_name(data.test, label)}")]
        for index, neighbour in zip(found, _originals(data.train, found), strict=True):
            name = f"training image {int(index)}: {_name(data.train, labels[index])}"
            strip.append(Thumbnail(_uri(neighbour), name, "same" if labels[index] == label else "other"))
        strips.append(strip)
    return Picture(title, strips)


def _name(source: Source, label: Tensor) -> str:
    names = source.class_names
    return names[int(label)] if names else f"class {int(label)}"


def _originals(source: Source, indices: Tensor) -> Tensor:
    """Thumbnails, uint8 [B, C, h, w]."""
    if source.size is not None:
        return source.pixels(indices).cpu()
    boxes = centre_boxes(source.sizes(indices), fraction=1.0)
    return source.crops(indices, [boxes], [_THUMBNAIL], "bilinear")[0]


def _uint8(images: Tensor, source: Source) -> Tensor:
    mean, std = (torch.tensor(x)[:, None, None] for x in (source.mean, source.std))
    return ((images.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def _uri(pixels: Tensor) -> str:
    """uint8 [C, H, W] -> a PNG that a page can hold."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(np.ascontiguousarray(array.squeeze(2) if array.shape[2] == 1 else array[:, :, :3]))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
