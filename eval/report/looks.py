"""Where a classifier looked: heat over test images, for the report."""

from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from eval import classifier
from eval.channels import seen_with
from eval.classifier import Trained
from eval.explain import heatmaps
from eval.predict import prepared
from eval.report.gallery import Picture, Thumbnail, class_name, first_of_each, uri
from ssl_cls.augment.augment import whole
from ssl_cls.data.source import Source, all_labels

_NUM_SHOWN = 7


def looks(title: str, path: Path, test: Source) -> Picture:
    """The first test image of each class or label (up to seven), and below each where the classifier at `path` looked.

    Grad-CAM of the answer, of several labels the likeliest, for a ResNet, attention for a vision transformer.

    Raises:
        UserError: no whole classifier is there, or its attention is of a kind that cannot be drawn.
    """
    trained = classifier.load(path)
    test = seen_with(test, trained.channels)
    labels = all_labels(test)
    chosen = first_of_each(labels, _NUM_SHOWN)
    images = _shown(trained, test, chosen)
    with torch.no_grad():
        answers = trained.model(images).argmax(1)
    heat = heatmaps(trained.model, images, answers)
    mean, std = (torch.tensor(values)[:, None, None] for values in (trained.mean, trained.std))
    plain = (images * std + mean).clamp(0, 1)
    above, below = [], []
    for index, image, warm, answer in zip(chosen, plain, _over(plain, heat), answers, strict=True):
        label, its = labels[index], int(answer)
        name = f"test image {int(index)}: {class_name(test, label)}"
        above.append(Thumbnail(uri(_bytes(image)), name))
        taken = f"{name}, answered {trained.class_names[its]}"
        right = bool(label == its if label.ndim == 0 else label[its] > 0)
        below.append(Thumbnail(uri(_bytes(warm)), taken, "same" if right else "other"))
    how = "attention" if getattr(trained.model.network, "is_vit", False) else "Grad-CAM"
    return Picture(f"{title}: {how}", [above, below])


def _shown(trained: Trained, source: Source, indices: Tensor) -> Tensor:
    """What the classifier is given: float [B, C, s, s], normalised."""
    if source.size is not None:
        pixels, filter_ = source.pixels(indices).cpu(), trained.framing.interpolation
        return whole(pixels, trained.input_size, trained.mean, trained.std, filter_)
    boxes = trained.framing.boxes(source.sizes(indices))
    return prepared(trained, source.crops(indices, [boxes], [trained.input_size], trained.framing.interpolation)[0])


def _over(images: Tensor, heat: Tensor) -> Tensor:
    """[B, C, s, s] in [0, 1] with [B, s, s] of heat laid over it: RGB, warm where there is much."""
    warm = torch.from_numpy(matplotlib.colormaps["inferno"](heat.numpy())[..., :3]).permute(0, 3, 1, 2)
    cover = (0.15 + 0.6 * heat)[:, None]
    return images.mean(1, keepdim=True) * (1 - cover) + warm * cover


def _bytes(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)
