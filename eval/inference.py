"""A trained classifier: its logits for all images of a source, and all that it takes to use it on others."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from eval.base import Encoder, EvalData
from eval.channels import seen_with
from eval.classifier import Classifier, Trained
from eval.features import batches, refuse_undecoded
from ssl_cls.augment.apply import normalise, resample
from ssl_cls.augment.augment import Framing
from ssl_cls.augment.draw import Geometry
from ssl_cls.data.source import Source, all_labels

Inference = Literal["center", "multi_crop"]

_BATCH = 50  # images, of five crops each
_CORNERS = ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))  # the centre first


@torch.inference_mode()
def logits(
    model: Classifier, encoder: Encoder, source: Source, device: torch.device, inference: Inference = "center"
) -> Tensor:
    """[N, num_classes] on the CPU, of whole images as frozen features are computed, or the mean over five crops:
    the centre and the four corners (Krizhevsky et al. 2012, 4.1, without their mirror images)."""
    if inference == "center":
        return torch.cat([model(images).cpu() for images in batches(encoder, source, device)])
    answers = [model(crops) for crops in _five(encoder, source, device)]
    return torch.cat([each.view(5, -1, each.shape[1]).mean(0).cpu() for each in answers])


def _five(encoder: Encoder, source: Source, device: torch.device) -> Iterator[Tensor]:
    """float32 [5 * B, C, s, s]: the centres, then each corner.

    Of files the squares that evaluation crops in the centre; array images, which it shows whole, are shifted by 1/28 of
    their side, as training shifts them.
    """
    source, size, filter_ = seen_with(source, encoder.channels), encoder.input_size, encoder.framing.interpolation
    known = len(source.bad)
    layout = torch.contiguous_format if getattr(encoder.network, "is_vit", True) else torch.channels_last
    for part in torch.split(torch.arange(len(source)), _BATCH):
        if source.size is None:
            boxes = _corner_boxes(source.sizes(part), encoder.framing)
            crops = torch.cat(source.crops(part, boxes, [size] * 5, filter_)).to(device).float().div_(255)
            refuse_undecoded(source, known)
        else:
            pixels = source.pixels(part).to(device)
            crops = torch.cat([resample(pixels, shift, size, filter_) for shift in _shifts(len(part), source.size)])
        yield normalise(crops, encoder.mean, encoder.std).contiguous(memory_format=layout)


def _corner_boxes(sizes: Tensor, framing: Framing) -> list[Tensor]:
    """int64 [B, 2] -> five of float32 [B, 4]: top, left, height, width."""
    centre = framing.boxes(sizes)
    room = sizes - centre[:, 2:]
    return [
        centre if (dy, dx) == (0, 0) else torch.cat((room * torch.tensor((dy > 0, dx > 0)), centre[:, 2:]), 1)
        for dy, dx in _CORNERS
    ]


def _shifts(count: int, size: tuple[int, int]) -> list[Geometry]:
    height, width = size
    by = max(1, round(min(size) / 28))
    still = torch.zeros(count), torch.zeros(count, dtype=torch.bool)
    boxes = [torch.tensor((dy * by, dx * by, height, width)).float().expand(count, 4) for dy, dx in _CORNERS]
    return [Geometry(box, *still) for box in boxes]


def trained(
    model: Classifier, encoder: Encoder, data: EvalData, probabilities: Literal["softmax", "sigmoid"] | None
) -> Trained:
    """`model` with what it takes to use it on images like those of `data`."""
    names = data.train.class_names or [str(number) for number in range(data.num_classes)]
    framing = encoder.framing if data.train.size is None else encoder.framing._replace(crop=1.0)
    return Trained(
        *(model, names, encoder.input_size, encoder.channels, encoder.mean, encoder.std, framing, probabilities),
        several=all_labels(data.test).ndim == 2,
        window=data.window,
    )
