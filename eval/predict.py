"""A classifier's answers for image files."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from eval.classifier import Trained
from ssl_cls.augment.apply import normalise
from ssl_cls.cores import usable_cores
from ssl_cls.data.decode import cut, read_header

_BATCH = 64


class Answer(NamedTuple):
    path: str  # relative to the folder
    label: str
    probability: float | None  # None: this classifier has scores, not probabilities
    error: str = ""  # why there is no answer


def predict(trained: Trained, folder: Path, paths: Sequence[str], device: torch.device) -> Iterator[Answer]:
    """An answer a path, in order; of a file that cannot be decoded, the reason.

    Where an image may have several labels, an answer for each that is as likely as not, likeliest first; if none is,
    "" with how likely the likeliest is.
    """
    model = trained.model.to(device)
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoders release the interpreter
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            decoded = list(pool.map(lambda path: _decoded(trained, folder / path), batch))
            good = [image for image in decoded if isinstance(image, Tensor)]
            answers = iter(_answers(trained, model, torch.stack(good).to(device)) if good else [])
            for path, image in zip(batch, decoded, strict=True):
                if isinstance(image, str):
                    yield Answer(path, "", None, image)
                else:
                    yield from (Answer(path, *one) for one in next(answers))


def square(trained: Trained, path: Path) -> Tensor:
    """What the classifier is shown of a file, uint8 [C, s, s].

    Raises:
        Exception: whatever the decoder raises for a file that it cannot read.
    """
    header = read_header(path)
    size = torch.tensor([[header.height, header.width]])
    box = trained.framing.boxes(size) / size.repeat(1, 2)
    filter_ = trained.framing.interpolation
    return cut(path, trained.channels, box.double().tolist(), [trained.input_size], filter_, trained.window)[0]


def prepared(trained: Trained, squares: Tensor) -> Tensor:
    """uint8 [B, C, s, s] -> what the network takes."""
    images = normalise(squares.float().div_(255), trained.mean, trained.std)
    layout = torch.contiguous_format if trained.model.network.is_vit else torch.channels_last
    return images.contiguous(memory_format=layout)


def probabilities(trained: Trained, logits: Tensor) -> Tensor | None:
    """[B, K] -> [B, K]; None where logits are scores."""
    if trained.probabilities is None:
        return None
    return logits.softmax(1) if trained.probabilities == "softmax" else logits.sigmoid()


@torch.inference_mode()
def _answers(trained: Trained, model: torch.nn.Module, squares: Tensor) -> list[list[tuple[str, float | None]]]:
    """Of each image its labels, each with its probability."""
    logits = model(prepared(trained, squares)).double().cpu()
    found = probabilities(trained, logits)
    answers = []
    for number, scores in enumerate(logits):
        order = scores.argsort(descending=True, stable=True).tolist()
        chosen = order[: int((scores >= 0).sum())] if trained.several else order[:1]
        named = [(trained.class_names[k], k) for k in chosen] or [("", order[0])]
        answers.append([(name, None if found is None else float(found[number, k])) for name, k in named])
    return answers


def _decoded(trained: Trained, path: Path) -> Tensor | str:
    try:
        return square(trained, path)
    except Exception as error:  # decoders raise what they like on damaged bytes
        return str(error) or type(error).__name__
