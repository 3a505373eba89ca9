"""The nearest rows of a bank, exactly: several metrics for one pass of matrix products, in bounded memory."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["cosine", "centred", "euclidean"]

_CHUNK = 2**24  # similarities held at a time: 64 MiB, whatever the sizes


class Neighbours(NamedTuple):
    similarity: Tensor  # float32 [N, k], falling
    rows: Tensor  # int64 [N, k], of the bank


class _Ranking(NamedTuple):
    """similarity = query_factor * ((x_q . x_b) * scale_b + shift_b + (x_q . mean) * tilt_b) + query_offset."""

    scale: Tensor  # [M]
    shift: Tensor  # [M]
    tilt: Tensor | None  # [M]; None: 0


def nearest(
    bank: Tensor, queries: Tensor, k: int, metrics: Sequence[Metric] = ("cosine",), *, leave_one_out: bool = False
) -> list[Neighbours]:
    """The min(k, M) rows of `bank` [M, D] most similar to each query [N, D], for each metric.

    Similarities are "cosine"; "centred", the cosine after the mean of the bank has been subtracted from both;
    and "euclidean", -|q - b|^2 / 2 where the rows of the bank have a mean square of 1 about their mean: between
    rows of one length that is the centred cosine - 1, so that one temperature serves all three. A row of zeros
    has cosine 0 with everything. Of equal similarities any may come first, always the same.

    leave_one_out: queries are the bank, and no row finds itself; k is then at most M - 1.

    Method: with the bank's mean subtracted, x_q . x_b serves every metric (_rankings), and rounding is as small
    as that of each for itself. The k largest of a row are in the k column groups with the largest maxima.
    """
    mean = bank.mean(0)
    x = bank - mean
    rankings = [_ranking(metric, bank, x, mean) for metric in metrics]
    k = min(k, len(bank) - leave_one_out)
    height = max(1, min(len(queries), _CHUNK // len(bank)))
    groups = max(1, math.isqrt(len(bank) // max(1, k)) // 2)
    width = -(-len(bank) // groups)
    rooms = x.new_full((len(metrics), height, groups, width), -math.inf)
    tops = x.new_empty(len(metrics), height, width)
    products = x.new_empty(height * width)
    found: list[list[Neighbours]] = [[] for _ in metrics]
    for start in range(0, len(queries), height):
        part = queries[start : start + height]
        y = part - mean
        offset = y @ mean
        tops.fill_(-math.inf)
        for group, rows in enumerate(torch.split(x, width)):  # a block of products at a time, while it is in the cache
            columns = slice(group * width, group * width + len(rows))
            dots = torch.mm(y, rows.T, out=products[: len(y) * len(rows)].view(len(y), len(rows)))
            for ranking, room, top in zip(rankings, rooms, tops, strict=True):
                values = room[: len(y), group, : len(rows)]
                torch.addcmul(ranking.shift[columns], dots, ranking.scale[columns], out=values)
                if ranking.tilt is not None:
                    values.addr_(offset, ranking.tilt[columns])
                if leave_one_out:
                    values.diagonal(start - columns.start).fill_(-math.inf)
                highest = top[: len(y), : len(rows)]
                torch.maximum(highest, values, out=highest)
        for metric, room, top, answer in zip(metrics, rooms, tops, found, strict=True):
            ranked, index = _largest(room[: len(y)], top[: len(y)], k)
            answer.append(Neighbours(_similarity(metric, ranked, part, y, x), index))
    return [Neighbours(*(torch.cat(piece) for piece in zip(*parts, strict=True))) for parts in found]


def _ranking(metric: Metric, bank: Tensor, x: Tensor, mean: Tensor) -> _Ranking:
    """What of a similarity depends on the bank; `x` is the bank less its mean.

    q . b = x_q . x_b + x_q . mean + b . mean, and |q - b|^2 = |x_q|^2 + |x_b|^2 - 2 x_q . x_b.
    """
    if metric == "cosine":
        inverse = _inverse_norms(bank)
        return _Ranking(inverse, (bank @ mean) * inverse, inverse)
    if metric == "centred":
        return _Ranking(_inverse_norms(x), x.new_zeros(len(x)), None)
    spread = _spread(x)
    return _Ranking((1 / spread).expand(len(x)), -_squares(x) / (2 * spread), None)


def _similarity(metric: Metric, ranked: Tensor, queries: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The rest, which depends on the query and so does not change who is near."""
    if metric == "cosine":
        return ranked * _inverse_norms(queries)[:, None]
    if metric == "centred":
        return ranked * _inverse_norms(y)[:, None]
    return ranked - (_squares(y) / (2 * _spread(x)))[:, None]


def _squares(rows: Tensor) -> Tensor:
    return torch.linalg.vecdot(rows, rows)  # type: ignore[no-any-return]


def _inverse_norms(rows: Tensor) -> Tensor:
    norms = _squares(rows).sqrt()
    return torch.where(norms > 0, 1 / norms, 0.0)


def _spread(x: Tensor) -> Tensor:
    spread = _squares(x).mean()
    return torch.where(spread > 0, spread, 1.0)


def _largest(values: Tensor, highest: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of [Q, G, W] seen as [Q, G * W], falling, and their places, int64 [Q, k].

    highest: the maxima over G, [Q, W].
    """
    _, groups, width = values.shape
    if groups == 1:
        top = values[:, 0].topk(k, dim=1)
        return top.values, top.indices
    columns = highest.topk(k, dim=1, sorted=False).indices
    candidates = values.gather(2, columns[:, None].expand(-1, groups, -1)).flatten(1)
    top = candidates.topk(k, dim=1)
    return top.values, top.indices // k * width + columns.gather(1, top.indices % k)


def nearest_by_faiss(
    bank: Tensor, queries: Tensor, k: int, metrics: Sequence[Metric] = ("cosine",), *, leave_one_out: bool = False
) -> list[Neighbours]:
    """`nearest` by faiss, on the CPU: the same answers, a search for each metric."""
    return [_by_faiss(bank, queries, min(k, len(bank) - leave_one_out), metric, leave_one_out) for metric in metrics]


def _by_faiss(bank: Tensor, queries: Tensor, k: int, metric: Metric, leave_one_out: bool) -> Neighbours:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())  # a launcher may have told OpenMP to use one
    mean = bank.mean(0) if metric != "cosine" else bank.new_zeros(())
    x, y = bank - mean, queries - mean
    index: Any
    if metric == "euclidean":
        scale = _spread(x).sqrt()
        x, y, index = x / scale, y / scale, faiss.IndexFlatL2(x.shape[1])
    else:
        x, y, index = F.normalize(x, dim=1), F.normalize(y, dim=1), faiss.IndexFlatIP(x.shape[1])
    index.add(x.numpy())
    values, found = map(torch.from_numpy, index.search(y.numpy(), k + leave_one_out))
    if leave_one_out:  # itself, or the last where so many are equal to it that it was not found
        own = found == torch.arange(len(found))[:, None]
        own[:, -1] |= ~own.any(1)
        values, found = values[~own].view(-1, k), found[~own].view(-1, k)
    return Neighbours(-values / 2 if metric == "euclidean" else values, found)
