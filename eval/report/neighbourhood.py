"""What an encoder finds alike: the nearest neighbours of test images, and a map of all of them."""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eval import encoders, features
from eval.base import Context, Encoder, EvalData
from eval.channels import seen_with
from eval.comparison.record import Row
from eval.data import shown
from eval.neighbours import nearest
from eval.report.gallery import Picture, Thumbnail, class_name, copies, first_of_each, originals, uri
from eval.report.leakage import MOST, THRESHOLD
from ssl_cls.data import catalog
from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import UserError

log = logging.getLogger(__name__)

_NUM_QUERIES, _NUM_NEIGHBOURS = 8, 6
_NUM_MAPPED, _NUM_COLOURS = 600, 10


@dataclass(frozen=True)
class Map:
    title: str
    method: str
    points: dict[int, list[tuple[float, float]]]  # (x, y) of each class's images, within 0..100


class Seen(NamedTuple):
    source: Source
    features: Tensor  # [N, D]


class Known(NamedTuple):
    """An encoder's kept features, and the images that they are of."""

    data: EvalData
    bank: Tensor  # [N, D], of train
    test: Tensor
    encoder: Encoder


def known(spec: str, row: Row, data: EvalData, context: Context) -> Known:
    """The features behind a row.

    Raises:
        UserError: the encoder of the row is not to be had, or its features have not been kept.
    """
    encoder = encoders.load(spec, data, row.seed)
    data = shown(data, encoder.channels)
    if encoder.sha256 != row.encoder_sha256:
        raise UserError("these are not the weights that were evaluated", spec)
    if not all(features.cached(encoder, source, context) for source in (data.train, data.test)):
        raise UserError("its features are no longer kept", spec, "python tools/evaluate.py ENCODER")
    bank, test = (features.extract(encoder, source, context) for source in (data.train, data.test))
    return Known(data, bank, test, encoder)


def seen(encoder: Encoder, run: Path | None, context: Context) -> Seen | None:
    """What a run's encoder was pretrained on, and its features, made where they have not been kept; None where the run
    does not say, the images are not to be had, or are too many to hold."""
    recipe = encoders.recipe_of(str(run)) if run else None
    if recipe is None:
        return None
    try:
        source = seen_with(catalog.open(recipe.data, "train"), encoder.channels)
        if len(source) > MOST:
            return None
        if not features.cached(encoder, source, context):
            log.info("encoding the %s images of %s, to look for copies", f"{len(source):,}", source.name)
        return Seen(source, features.extract(encoder, source, context))
    except UserError:
        return None


def neighbours(title: str, encoder: Known) -> Picture:
    """The first test image of each class or label (up to eight) with its nearest training images by cosine; alike are
    those of its class, or with any of its labels."""
    data, bank, test, _ = encoder
    labels, test_labels = all_labels(data.train), all_labels(data.test)
    queries = first_of_each(test_labels, _NUM_QUERIES)
    cosine = F.normalize(test[queries], dim=1) @ bank.T / bank.norm(dim=1).clamp(min=1e-12)
    nearest = cosine.topk(min(_NUM_NEIGHBOURS, len(bank)), dim=1).indices
    strips = []
    for query, found, image in zip(queries, nearest, originals(data.test, queries), strict=True):
        label = test_labels[query]
        strip = [Thumbnail(uri(image), f"test image {int(query)}: {class_name(data.test, label)}")]
        for index, neighbour in zip(found, originals(data.train, found), strict=True):
            name = f"training image {int(index)}: {class_name(data.train, labels[index])}"
            alike = bool(labels[index] == label if label.ndim == 0 else ((labels[index] > 0) & (label > 0)).any())
            strip.append(Thumbnail(uri(neighbour), name, "same" if alike else "other"))
        strips.append(strip)
    return Picture(title, strips)


def closest(title: str, encoder: Known, seen: Seen | None) -> Picture:
    """The test images (up to eight) that an image of pretraining is nearest to, by cosine about their mean, and how
    many are nearer than THRESHOLD: copies that pixels do not show, if there are any. Where it is not known what was
    seen, `train` stands in for it."""
    source, bank = seen or (encoder.data.train, encoder.bank)
    (found,) = nearest(bank, encoder.test, 1, ("centred",))
    count, num_test = int((found.similarity[:, 0] >= THRESHOLD).sum()), len(encoder.test)
    cosine, queries = found.similarity[:, 0].topk(min(_NUM_QUERIES, num_test))
    pairs = list(zip(queries.tolist(), found.rows[queries, 0].tolist(), cosine.tolist(), strict=True))
    told = f"by the features of {title}: {count:,} of {num_test:,} test images have a cosine of {THRESHOLD} or more"
    return copies(f"{told} with one of {len(bank):,} of {source.name}", source, encoder.data.test, pairs, "cosine")


def feature_map(title: str, encoder: Known) -> Map:
    """Test images in the plane of their two largest principal components."""
    mapped, labels = _mapped(encoder)
    centred = mapped - mapped.mean(0)
    u, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    flat = (u * singular)[:, :2]
    if flat.shape[1] < 2:
        flat = F.pad(flat, (0, 2 - flat.shape[1]))
    flat = flat * torch.where(flat[flat.abs().argmax(0), torch.arange(2)] < 0, -1.0, 1.0)  # svd leaves signs open
    explained = float(100 * singular[:2].square().sum() / singular.square().sum().clamp(min=1e-12))
    return Map(title, f"PCA, {explained:.0f} % of variance", _placed(flat, labels))


def umap(title: str, encoder: Known) -> Map | None:
    """The same images by UMAP (McInnes et al. 2018); None where umap-learn is not installed."""
    if importlib.util.find_spec("umap") is None:
        return None
    from umap import UMAP

    mapped, labels = _mapped(encoder)
    flat = torch.from_numpy(UMAP(random_state=0).fit_transform(mapped.numpy()))
    return Map(title, "UMAP", _placed(flat, labels))


def _mapped(encoder: Known) -> tuple[Tensor, list[int]]:
    """Features [M, D] and labels of the first test images of the first classes, as many as colours can tell apart. Of
    several labels an image goes by the one that most images have; without any it is left out."""
    labels = all_labels(encoder.data.test)
    if labels.ndim == 2:
        has = labels > 0
        labels = torch.where(has.any(1), (has * has.sum(0)).argmax(1), _NUM_COLOURS)
    chosen = (labels < _NUM_COLOURS).nonzero()[:_NUM_MAPPED, 0]
    return encoder.test[chosen], labels[chosen].tolist()


def _placed(flat: Tensor, labels: list[int]) -> dict[int, list[tuple[float, float]]]:
    """By class, in a square of 100 x 100."""
    low, high = flat.min(0).values, flat.max(0).values
    scaled = (3 + 94 * (flat - low) / (high - low).clamp(min=1e-12)).tolist()
    found: dict[int, list[tuple[float, float]]] = {}
    for label, (x, y) in zip(labels, scaled, strict=True):
        found.setdefault(label, []).append((round(x, 1), round(y, 1)))
    return dict(sorted(found.items()))
