from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from eval import encoders
from eval.base import Context, Encoder, EvalData, Provenance
from eval.data import open_data
from eval.frozen import Split
from eval.knn import KNN, vote
from eval.metrics import accuracy
from eval.neighbours import nearest, nearest_by_faiss
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import Subset

CLASSES = 5
BACKENDS = {"torch": nearest, "faiss": nearest_by_faiss}


def _features(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def _answers(bank: Tensor, labels: Tensor, queries: Tensor, k: int, backend: str) -> Tensor:
    ((similarity, index),) = BACKENDS[backend](bank, queries, k)
    return vote((similarity / 0.07).softmax(1), index, labels, CLASSES).argmax(1)


@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_e1_answers_are_those_of_brute_force(backend: str) -> None:
    bank, queries, labels = _features(1000, 200, 0), _features(300, 200, 1), torch.arange(1000) % CLASSES
    ours = _answers(bank, labels, queries, 20, backend)
    a, b = (x.numpy().astype(np.float64) for x in (bank, queries))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosine = b @ a.T
    nearest = np.argsort(-cosine, axis=1)[:, :20]
    expected = []
    for row, found in zip(cosine, nearest, strict=True):
        shares = np.zeros(CLASSES)
        np.add.at(shares, labels.numpy()[found], np.exp(row[found] / 0.07))
        expected.append(shares.argmax())
    assert ours.tolist() == expected


def test_unweighted_votes_are_scikit_learns() -> None:
    bank, queries, labels = _features(400, 8, 4), _features(100, 8, 5), torch.arange(400) % CLASSES
    theirs = KNeighborsClassifier(11, metric="cosine").fit(bank, labels).predict_proba(queries)
    ((similarity, index),) = nearest(bank, queries, 11)
    ours = vote(torch.full_like(similarity, 1 / 11), index, labels, CLASSES)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_e2_scale_changes_nothing_and_shift_does() -> None:
    bank, queries, labels = _features(300, 6, 6), _features(200, 6, 7), torch.arange(300) % CLASSES
    for backend in BACKENDS:
        plain = _answers(bank, labels, queries, 10, backend)
        assert torch.equal(plain, _answers(7 * bank, labels, 7 * queries, 10, backend))
        assert not torch.equal(plain, _answers(bank + 3, labels, queries + 3, 10, backend))


def test_every_backend_gives_the_same_votes() -> None:
    bank, queries, labels = _features(300, 6, 6), _features(200, 6, 7), torch.arange(300) % CLASSES
    for metrics in (("cosine",), ("centred",), ("cosine", "centred", "euclidean")):
        given = [
            [votes for _, votes in KNN(metrics=metrics, backend=name)._votes(Split(bank, labels), queries, CLASSES)]
            for name in ("auto", "torch", "faiss")
        ]
        for auto, by_torch, by_faiss in zip(*given, strict=True):
            torch.testing.assert_close(auto, by_torch, atol=1e-5, rtol=0)
            torch.testing.assert_close(auto, by_faiss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("choose", ["val", "leave_one_out"])
def test_k_beyond_the_bank_is_all_of_it(choose: str, tmp_path: Path) -> None:
    """train alone, and train with val, are banks of different sizes, and k is chosen on the smaller."""
    data = open_data(DataConfig("digits"))
    few = replace(
        data, train=Subset(data.train, torch.arange(90), "few"), val=Subset(data.val, torch.arange(12), "few")
    )
    pixels = encoders.load("pixels", data, 0)
    (result,) = KNN(k=(200,), choose=choose).run(pixels, few, Context(torch.device("cpu"), cache=tmp_path))
    assert (result.settings["k"], result.n_train) == (200, 102)


def test_centring_undoes_a_shift() -> None:
    bank, queries, labels = _features(300, 6, 6), _features(200, 6, 7), torch.arange(300) % CLASSES
    knn = KNN(k=(10,))
    (_, plain), (_, centred) = knn._votes(Split(bank, labels), queries, CLASSES)
    (_, shifted), (_, recentred) = knn._votes(Split(bank + 3, labels), queries + 3, CLASSES)
    assert not torch.equal(plain.argmax(1), shifted.argmax(1))
    torch.testing.assert_close(centred, recentred, atol=1e-4, rtol=0)


def test_e3_a_bank_asked_for_itself_is_all_right() -> None:
    bank = _features(500, 12, 8)
    labels = torch.randint(0, CLASSES, (500,), generator=torch.Generator().manual_seed(0))
    for backend in ("faiss", "torch"):
        assert torch.equal(_answers(bank, labels, bank, 1, backend), labels)


def test_e4_shuffled_labels_are_chance() -> None:
    n, labels = 4000, torch.arange(4000) % CLASSES
    shuffled = labels[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    bank = _features(n, 10, 9) + 4 * nn.functional.one_hot(labels, 10)
    top1 = accuracy(_scores(bank, shuffled, bank[: n // 2] + 0.01), labels[: n // 2])["top1"]
    chance = 100 / CLASSES
    assert abs(top1 - chance) < 3 * (chance * (100 - chance) / (n // 2)) ** 0.5


def _scores(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    ((similarity, index),) = nearest(bank, queries, 20)
    return vote((similarity / 0.07).softmax(1), index, labels, CLASSES)


def test_e5_constant_features_are_chance() -> None:
    labels = torch.arange(500) % CLASSES
    top1 = accuracy(_scores(torch.ones(500, 4), labels, torch.ones(500, 4)), labels)["top1"]
    assert top1 == 100 / CLASSES


def test_a_row_of_zeros_is_no_crash() -> None:
    scores = _scores(_features(50, 4, 1), torch.arange(50) % CLASSES, torch.zeros(2, 4))
    assert torch.isfinite(scores).all()


def test_e7_a_half_precision_bank_changes_next_to_nothing() -> None:
    labels = torch.arange(2000) % CLASSES
    means = 1.5 * _features(CLASSES, 64, 1)[labels]
    bank, queries = (means + 3 * _features(2000, 64, s) for s in (2, 3))
    full = accuracy(_scores(bank, labels, queries), labels)["top1"]
    half = accuracy(_scores(bank.half(), labels, queries.half()).float(), labels)["top1"]
    assert 40 < full < 99
    assert abs(full - half) <= 0.1


class Flat(nn.Module):
    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _data(train: int, val: int, test_labels: Tensor | None = None) -> EvalData:
    def source(name: str, n: int, seed: int, wrong: Tensor | None = None) -> Arrays:
        labels = torch.arange(n) % CLASSES
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 60, (n, 1, 4, 4), generator=generator)
        images.view(n, -1)[torch.arange(n), labels] += 40
        names = [str(c) for c in range(CLASSES)]
        return Arrays(
            f"spots/{name}", images.to(torch.uint8), labels if wrong is None else wrong, names, (0.0,), (1.0,)
        )

    return EvalData(
        "spots", source("train", train, 0), source("val", val, 1), source("test", 60, 2, test_labels), CLASSES
    )


def _run(data: EvalData, tmp_path: Path, knn: KNN | None = None) -> tuple[KNN, list]:  # type: ignore[type-arg]
    encoder = Encoder(Flat(), 4, 1, (0.0,), (1.0,), "00", Provenance("pixels", "pixels", "", 0), tmp_path)
    knn = knn or KNN()
    return knn, knn.run(encoder, data, Context(torch.device("cpu"), cache=tmp_path / "cache"))


def test_e6_a_bank_smaller_than_k_is_used_whole(tmp_path: Path) -> None:
    _, (result,) = _run(_data(7, 6), tmp_path)
    for centred in (False, True):
        top1 = {x["settings"]["k"]: x["top1"] for x in result.optimism if x["settings"]["centred"] == centred}
        assert set(top1) == {5, 10, 20, 50, 100, 200}
        assert len({top1[k] for k in (20, 50, 100, 200)}) == 1  # all 13 vote
    assert result.n_train == 13
    assert len(result.predictions) == result.n_test == 60


def test_no_test_label_has_a_say(tmp_path: Path) -> None:
    data = _data(120, 40)
    _, (honest,) = _run(data, tmp_path / "a")
    shuffled = torch.arange(60).flip(0) % CLASSES
    _, (blind,) = _run(_data(120, 40, shuffled), tmp_path / "b")
    assert honest.settings == blind.settings
    assert torch.equal(honest.predictions, blind.predictions)
    assert honest.metrics != blind.metrics


def test_the_row_is_one_of_the_settings_and_the_best_on_val(tmp_path: Path) -> None:
    knn, (result,) = _run(_data(120, 40), tmp_path)
    scores = {(e["settings"]["k"], e["settings"]["centred"]): e["top1"] for e in result.optimism}
    assert len(scores) == 2 * len(knn.k)
    assert scores[result.settings["k"], result.settings["centred"]] == result.metrics["top1"]
    assert result.metrics["top1"] > 100 / CLASSES + 20


def test_settings_can_be_chosen_by_leaving_one_out(tmp_path: Path) -> None:
    """Chosen on train and val alone, and the bank holds nobody's own label against it."""
    _, (result,) = _run(_data(120, 40), tmp_path, KNN(metrics=("euclidean",), choose="leave_one_out"))
    assert result.chosen_on == "leave_one_out"
    assert result.settings["metric"] == "euclidean"
    assert result.metrics["top1"] > 100 / CLASSES + 20
    noise = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % CLASSES
    (_, votes), *_ = KNN(k=(1,))._votes(Split(noise, labels), noise, CLASSES, leave_one_out=True)
    assert accuracy(votes, labels)["top1"] < 40  # with itself in the bank it would be 100


def test_both_backends_give_the_same_row(tmp_path: Path) -> None:
    (_, (one,)), (_, (other,)) = (
        _run(_data(120, 40), tmp_path, KNN(backend=backend))
        for backend in ("torch", "faiss")  # type: ignore[arg-type]
    )
    assert (one.settings, one.metrics) == (other.settings, other.metrics)
    assert torch.equal(one.predictions, other.predictions)


def test_3_4_many_labels_get_the_weighted_mean_of_the_neighbours_label_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (30, 4), generator=generator).float()
    index = torch.randint(0, 30, (6, 5), generator=generator)
    weights = torch.rand(6, 5, generator=generator).softmax(1)
    expected = torch.einsum("nk,nkc->nc", weights, labels[index])
    torch.testing.assert_close(vote(weights, index, labels, 4), expected)
    one_hot = nn.functional.one_hot(labels.argmax(1), 4).float()
    torch.testing.assert_close(vote(weights, index, one_hot, 4), vote(weights, index, labels.argmax(1), 4))
