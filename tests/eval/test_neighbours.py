import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances
from torch import Tensor

from eval import neighbours
from eval.neighbours import Metric, Neighbours, nearest, nearest_by_faiss

Search = Callable[..., list[Neighbours]]
METRICS: tuple[Metric, ...] = ("cosine", "centred", "euclidean")


def _features(n: int, dim: int, seed: int) -> Tensor:
    """As a network's are: not about zero, and of unequal spread."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator) * torch.linspace(0.2, 2, dim) + 1.5


def _similarities(bank: Tensor, queries: Tensor, metric: Metric) -> NDArray[np.float64]:
    """scikit-learn's, in float64: [N, M]."""
    a, b = (x.double().numpy() for x in (bank, queries))
    if metric != "cosine":
        a, b = a - bank.double().mean(0).numpy(), b - bank.double().mean(0).numpy()
    if metric == "euclidean":
        return np.asarray(-pairwise_distances(b, a, "sqeuclidean") / (2 * (a**2).sum(1).mean()))
    return np.asarray(1 - pairwise_distances(b, a, "cosine"))


@pytest.mark.parametrize("search", [nearest, nearest_by_faiss])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_e1_answers_are_those_of_brute_force(search: Search, leave_one_out: bool) -> None:
    bank = _features(1000, 200, 0)
    queries = bank if leave_one_out else _features(200, 200, 1)
    found = search(bank, queries, 20, METRICS, leave_one_out=leave_one_out)
    for metric, (similarity, index) in zip(METRICS, found, strict=True):
        expected = _similarities(bank, queries, metric)
        if leave_one_out:
            np.fill_diagonal(expected, -np.inf)
        best = np.sort(expected)[:, ::-1][:, :20]
        np.testing.assert_allclose(similarity, best, atol=5e-6, err_msg=metric)
        np.testing.assert_allclose(np.take_along_axis(expected, index.numpy(), 1), best, atol=5e-6, err_msg=metric)


@settings(max_examples=25, deadline=None)
@given(m=st.integers(2, 300), n=st.integers(1, 20), k=st.integers(1, 320), chunk=st.integers(1, 5000))
def test_e6_any_size_in_any_chunks_and_k_beyond_the_bank(m: int, n: int, k: int, chunk: int) -> None:
    bank, queries = _features(m, 5, m), _features(n, 5, n + 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_CHUNK", chunk)
        found = nearest(bank, queries, k, METRICS)
    for metric, (similarity, index) in zip(METRICS, found, strict=True):
        expected = np.sort(_similarities(bank, queries, metric))[:, ::-1][:, :k]
        np.testing.assert_allclose(similarity, expected, atol=5e-6)
        assert index.shape == (n, min(k, m))
        assert all(len(set(row)) == len(row) for row in index.tolist())


@pytest.mark.parametrize("search", [nearest, nearest_by_faiss])
def test_leave_one_out_of_duplicates_never_finds_itself(search: Search) -> None:
    bank = torch.ones(50, 4)
    bank[40:] = _features(10, 4, 0)
    for metric in METRICS:
        ((_, index),) = search(bank, bank, 60, (metric,), leave_one_out=True)
        assert index.shape == (50, 49)
        assert not (index == torch.arange(50)[:, None]).any()


def test_features_far_from_zero_lose_no_digits() -> None:
    """Collapsed features, cosines of .9999: the directions that are left are still told apart."""
    bank, queries = _features(500, 32, 0) + 100, _features(50, 32, 1) + 100
    for metric, (similarity, _) in zip(METRICS, nearest(bank, queries, 10, METRICS), strict=True):
        expected = np.sort(_similarities(bank, queries, metric))[:, ::-1][:, :10]
        np.testing.assert_allclose(similarity, expected, atol=2e-5 if metric != "cosine" else 5e-7, err_msg=metric)


def test_between_rows_of_one_length_euclid_is_the_centred_cosine() -> None:
    bank = torch.nn.functional.normalize(torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    bank = torch.cat((bank, -bank))  # so that their mean is zero
    centred, euclidean = nearest(bank, bank[:20], 10, ("centred", "euclidean"))
    torch.testing.assert_close(euclidean.similarity, centred.similarity - 1, atol=2e-6, rtol=0)
    ((scaled, _),) = nearest(7 * bank + 3, 7 * bank[:20] + 3, 10, ("euclidean",))  # E2: nor units nor origin matter
    torch.testing.assert_close(scaled, euclidean.similarity, atol=1e-5, rtol=0)


def test_a_row_of_zeros_has_no_direction() -> None:
    bank = torch.cat((_features(50, 4, 1), torch.zeros(1, 4)))
    (similarity, index), *_ = nearest(bank, torch.cat((torch.zeros(1, 4), bank[:1])), 51)
    assert torch.equal(similarity[0], torch.zeros(51))
    assert float(similarity[1][index[1] == 50]) == 0


MEASURED = """
import sys, torch
from pathlib import Path
from eval import neighbours

def taken(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak, which imports have raised, starts from what is held now
    held = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())["VmRSS"]
    work()
    peak = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())["VmHWM"]
    return (int(peak.split()[0]) - int(held.split()[0])) // 1024

search = getattr(neighbours, sys.argv[1])
bank, queries = torch.randn(60_000, 512), torch.randn(10_000, 512)
search(bank[:500], queries[:10], 5, ("cosine",))  # whatever libraries take at their first call
print(taken(lambda: search(bank, queries, 20, ("cosine", "centred"))), taken(lambda: queries @ bank.T))
"""


@pytest.mark.slow
@pytest.mark.parametrize("search", ["nearest", "nearest_by_faiss"])
def test_memory_beyond_the_features_is_bounded(search: str) -> None:
    """All similarities at once would be 2,289 MiB: in a process of its own, whose peak nothing else raises."""
    ran = subprocess.run([sys.executable, "-c", MEASURED, search], capture_output=True, text=True, check=True)
    taken, at_once = map(int, ran.stdout.split())
    assert taken < 400  # MiB: a copy of the bank, and chunks of 64 MiB for two metrics
    assert at_once > 2000  # what is measured is measured


def test_the_answer_does_not_depend_on_the_number_of_metrics() -> None:
    bank, queries = _features(300, 16, 0), _features(40, 16, 1)
    together = nearest(bank, queries, 10, METRICS)
    for metric, found in zip(METRICS, together, strict=True):
        (alone,) = nearest(bank, queries, 10, (metric,))
        assert torch.equal(alone.similarity, found.similarity)
        assert torch.equal(alone.rows, found.rows)
