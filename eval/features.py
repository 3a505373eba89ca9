"""Features of a whole split: computed once, kept in a file, in the order of the images."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed

from eval.base import Context, Encoder
from eval.channels import seen_with
from ssl_cls.augment.apply import normalise
from ssl_cls.augment.augment import AS_USUAL, Framing, whole
from ssl_cls.backbone import Backbone, BackboneConfig
from ssl_cls.cores import usable_cores
from ssl_cls.data.source import Source
from ssl_cls.errors import UserError
from ssl_cls.pooling import TIMM_S

_BATCH = 250  # images; fixed, so that features do not depend on how many ranks share the work


class Cut(NamedTuple):
    """Where in a network features are taken, and how they are pooled."""

    layer: int = -1  # -1: the last, down to -num_layers
    pooling: str | None = None  # avg, avg2x2, cls, timm; None: the encoder's own


OWN = (Cut(),)


def check_poolings(poolings: Sequence[str]) -> None:
    """Raises ValueError unless each is "own" or one that there is."""
    for pooling in set(poolings) - {"own"}:
        BackboneConfig("", pooling)


def available(encoder: Encoder, layers: tuple[int, ...], poolings: tuple[str, ...]) -> tuple[Cut, ...]:
    """The cuts that an encoder has, of all layers with all poolings; raw pixels have their own alone.

    Raises:
        UserError: none.
    """
    network = encoder.network
    if not isinstance(network, Backbone):
        return OWN
    cuts = [
        Cut(layer, None if pooling in ("own", network.pooling) else pooling)  # heads may fit the last layer alone
        for layer in layers
        for pooling in poolings
        if -network.num_layers <= layer <= -1
        and (pooling != "cls" or network.prefix_tokens)
        and not (pooling == "own" and network.pooling == TIMM_S and layer != -1 and not network.is_vit)
    ]
    if not cuts:
        raise UserError(
            f"{encoder.provenance.backbone} has none of the layers {list(layers)} with pooling {list(poolings)}",
            encoder.provenance.run,
            f"give layers from -1 to -{network.num_layers}, and cls only where there is a class token",
        )
    return tuple(dict.fromkeys(cuts))


def extract(encoder: Encoder, source: Source, context: Context, cuts: tuple[Cut, ...] = OWN) -> Tensor:
    """The encoder's features of every image: float32 [N, D] on the CPU, mapped from a file.

    Those of several cuts are concatenated, from one pass; `widths` says how long each is.

    The network runs in eval mode and is left as it was, to the bit. Each rank computes a contiguous share and
    returns the whole. The file is in `context.cache`, named by a digest of weights, architecture, images and
    preprocessing: a second call reads it.

    Raises:
        UserError: an image that cannot be decoded (evaluation never replaces one), or features that are not
            finite.
    """
    path = _path(encoder, source, context, cuts)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, encoder, source, context, cuts)
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def cached(encoder: Encoder, source: Source, context: Context) -> bool:
    """Whether `extract` would only have to read a file."""
    return _path(encoder, source, context, OWN).exists()


def widths(encoder: Encoder, cuts: tuple[Cut, ...]) -> list[int]:
    """The length of the features of each cut."""
    blank = torch.zeros(1, encoder.channels, encoder.input_size, encoder.input_size)
    network, training = encoder.network, encoder.network.training
    blank = blank.to(next((p.device for p in network.parameters()), blank.device))
    network.eval()
    try:
        with torch.inference_mode():
            return [_features(network, blank, (cut,)).shape[1] for cut in cuts]
    finally:
        network.train(training)


def _features(network: Any, images: Tensor, cuts: tuple[Cut, ...]) -> Tensor:
    if cuts == OWN:
        return network.features(images)  # type: ignore[no-any-return]
    layers = tuple(dict.fromkeys(cut.layer for cut in cuts))
    outputs = dict(zip(layers, network.outputs(images, layers), strict=True))
    return torch.cat([network.pool(outputs[cut.layer], cut.pooling) for cut in cuts], 1)


def batches(
    encoder: Encoder, source: Source, device: torch.device, first: int = 0, last: int | None = None
) -> Iterator[Tensor]:
    """The images as evaluation shows them, in order: float32 [B, C, s, s], normalised, on `device`.

    Arrays are resized whole; files are cut as the encoder's framing says, decoded by threads.
    Only batches first..last-1, where these are given.
    """
    source = seen_with(source, encoder.channels)
    parts = torch.split(torch.arange(len(source)), _BATCH)[first:last]
    layout = torch.contiguous_format if getattr(encoder.network, "is_vit", True) else torch.channels_last
    for pixels in _decoded(source, parts, encoder.input_size, encoder.framing):
        images = pixels.to(device)
        if source.size is None:
            images = normalise(images.float().div_(255), encoder.mean, encoder.std)
        else:
            images = whole(images, encoder.input_size, encoder.mean, encoder.std, encoder.framing.interpolation)
        yield images.contiguous(memory_format=layout)


def _decoded(source: Source, parts: tuple[Tensor, ...], size: int, framing: Framing) -> Iterator[Tensor]:
    if source.size is not None:
        yield from map(source.pixels, parts)
        return
    known = len(source.bad)
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoders release the interpreter

        def cut(one: Tensor) -> Tensor:
            return source.crops(one, [framing.boxes(source.sizes(one))], [size], framing.interpolation)[0]

        for part in parts:
            pixels = torch.cat(list(pool.map(cut, torch.split(part, 16))))
            refuse_undecoded(source, known)
            yield pixels


def refuse_undecoded(source: Source, known: int) -> None:
    """
    Raises:
        UserError: images beyond the first `known` bad ones could not be decoded.
    """
    if new := source.bad[known:]:
        what = "evaluation needs every image, and cannot decode:\n  " + "\n  ".join(new)
        raise UserError(what, source.name, "replace or remove them")


def _path(encoder: Encoder, source: Source, context: Context, cuts: tuple[Cut, ...]) -> Path:
    return context.cache / f"{_key(encoder, source, context, cuts)}.npy"


def _key(encoder: Encoder, source: Source, context: Context, cuts: tuple[Cut, ...] = OWN) -> str:
    # num_heads and the like are in no tensor: hence the backbone's label, and pooling, beside the weights
    parts = (
        encoder.sha256, encoder.provenance.backbone, getattr(encoder.network, "pooling", ""),
        source.fingerprint, len(source), encoder.input_size, encoder.channels, encoder.mean, encoder.std,
        context.device.type, *(cuts if cuts != OWN else ()), *(encoder.framing if encoder.framing != AS_USUAL else ()),
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _write(path: Path, encoder: Encoder, source: Source, context: Context, cuts: tuple[Cut, ...] = OWN) -> None:
    """Every rank fills its rows of one partial file, which is checked and then given its name."""
    context.barrier()
    num_batches = -(-len(source) // _BATCH)
    first, last = (num_batches * r // context.num_ranks for r in (context.rank, context.rank + 1))
    partial = path.with_name(f".{path.name}.{_shared_id(context)}")
    network, training = encoder.network.to(context.device), encoder.network.training
    network.eval()
    rows = None
    try:
        with torch.inference_mode():
            if context.rank == 0 or first < last:
                probe = next(batches(encoder, source, context.device, first, first + 1))[:1]
                dim = _features(network, probe, cuts).shape[1]
            if context.rank == 0:
                _memory_map(partial, "w+", len(source), dim)[:] = np.nan
            context.barrier()
            start = first * _BATCH
            if first < last:
                rows = _memory_map(partial, "r+", len(source), dim)
                for images in batches(encoder, source, context.device, first, last):
                    features = _features(network, images, cuts)
                    rows[start : start + len(features)] = features.float().cpu().numpy()
                    start += len(features)
                rows.flush()
            assert start == min(last * _BATCH, len(source)), "an image was left out, or taken twice"
    finally:
        network.train(training)
    context.barrier()
    if context.rank == 0:
        filled = np.load(partial, mmap_mode="r", allow_pickle=False)
        wrong = [
            i
            for at in range(0, len(filled), 4096)
            for i in at + np.flatnonzero(~np.isfinite(filled[at : at + 4096]).all(1))
        ]
        if wrong:
            partial.unlink()
            raise UserError(
                f"the features of {len(wrong)} images are not finite, of image {wrong[0]} first",
                encoder.provenance.run,
                "the encoder has diverged: pretrain again",
            )
        partial.replace(path)
    context.barrier()


def _memory_map(path: Path, mode: str, n: int, dim: int) -> Any:
    return np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=(n, dim))


def _shared_id(context: Context) -> int:
    """A number that this process group has and no other process on this machine."""
    chosen = [os.getpid()]
    if context.num_ranks > 1:
        distributed.broadcast_object_list(chosen)
    return chosen[0]
