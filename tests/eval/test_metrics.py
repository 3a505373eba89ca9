import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    top_k_accuracy_score,
)
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from eval import metrics
from eval.metrics import accuracy, classification


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), classes=st.integers(2, 30))
def test_scores_are_those_of_scikit_learn_and_torchmetrics(seed: int, n: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    ours = classification(logits, labels)
    probabilities = logits.double().softmax(1)
    assert ours["cross_entropy"] == pytest.approx(log_loss(labels, probabilities, labels=range(classes)), abs=1e-6)
    for k in (1, 5):
        if k == 1 or classes > 5:
            theirs = multiclass_accuracy(logits, labels, classes, average="micro", top_k=k)
            assert ours[f"top{k}"] == pytest.approx(100 * float(theirs), abs=1e-4)
        if classes > max(2, k):
            theirs = top_k_accuracy_score(labels, logits, k=k, labels=range(classes))
            assert ours[f"top{k}"] == pytest.approx(100 * theirs, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_top1_is_what_the_predictions_say_even_with_ties(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 3, (40, 7), generator=generator).float()
    labels = torch.randint(0, 7, (40,), generator=generator)
    assert accuracy(scores, labels)["top1"] == pytest.approx(100 * float((scores.argmax(1) == labels).double().mean()))


def test_e5_constant_scores_are_chance_and_not_a_hundred() -> None:
    labels = torch.arange(1000) % 10
    assert accuracy(torch.zeros(1000, 10), labels) == {"top1": 10.0, "top5": 50.0}


def test_confident_mistakes_stay_finite_and_exact() -> None:
    logits = torch.tensor([[0.0, 1000.0]])
    assert classification(logits, torch.tensor([0]))["cross_entropy"] == 1000.0


@pytest.mark.parametrize("scores", [torch.tensor([[float("nan"), 0.0]]), torch.zeros(0, 2)])
def test_what_cannot_be_scored_is_refused(scores: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="cannot score"):
        accuracy(scores, torch.zeros(len(scores), dtype=torch.int64))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), classes=st.integers(2, 8))
def test_precision_recall_f1_and_calibration_are_those_of_others(seed: int, n: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    predictions = logits.argmax(1)
    table = metrics.confusion(predictions, labels, classes)
    assert np.array_equal(table, confusion_matrix(labels, predictions, labels=range(classes)))
    average: metrics.Average
    for average in ("macro", "micro", "weighted"):
        ours = metrics.precision_recall_f1(metrics.counts_of(table), average)
        theirs = precision_recall_fscore_support(labels, predictions, average=average, zero_division=0)[:3]
        np.testing.assert_allclose(ours, [100 * x for x in theirs], atol=1e-6)
    ours = classification(logits, labels)
    recalls = recall_score(labels, predictions, labels=labels.unique(), average="macro", zero_division=0)
    assert ours["mean_per_class"] == pytest.approx(100 * recalls, abs=1e-6)
    theirs = multiclass_calibration_error(logits.double().softmax(1), labels, classes, n_bins=15, norm="l1")
    assert ours["ece"] == pytest.approx(100 * float(theirs), abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 50), k=st.integers(2, 6), ties=st.booleans())
def test_e17_multi_label_scores_are_scikit_learn_s_with_ties_and_without_positives(
    seed: int, n: int, k: int, ties: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, k, generator=generator) < 0.3).float()
    labels[0, 0] = 1
    scores = torch.randn(n, k, generator=generator)
    scores = scores.round() if ties else scores
    each = metrics.average_precision(scores, labels)
    for label in range(k):
        if labels[:, label].any():
            expected = average_precision_score(labels[:, label], scores[:, label])
            assert float(each[label]) == pytest.approx(expected, abs=1e-6)
        else:
            assert each[label].isnan()
    ours = metrics.multilabel(scores, labels)
    assert all(math.isfinite(value) for value in ours.values())
    for average in ("macro", "micro", "weighted"):
        found = metrics.precision_recall_f1(metrics.multilabel_counts(scores > 0, labels), average)  # type: ignore[arg-type]
        occurs = ((scores > 0).any(0) | labels.any(0)).nonzero()[:, 0].tolist()
        theirs = precision_recall_fscore_support(
            labels, (scores > 0).int(), average=average, zero_division=0, labels=occurs
        )[:3]
        np.testing.assert_allclose(found, [100 * x for x in theirs], atol=1e-6)
    bce = -(labels * scores.sigmoid().log() + (1 - labels) * (-scores).sigmoid().log()).mean()
    assert ours["cross_entropy"] == pytest.approx(float(bce), abs=1e-5)


def test_e17_a_perfect_scorer_has_1_and_a_random_one_the_prevalence() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(20_000, 3, generator=generator) < torch.tensor([0.1, 0.3, 0.6])).float()
    assert metrics.mean_average_precision(labels, labels) == 100
    chance = metrics.average_precision(torch.rand(20_000, 3, generator=generator), labels)
    torch.testing.assert_close(chance, labels.double().mean(0), atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="no image has any label"):
        metrics.mean_average_precision(labels, torch.zeros_like(labels))


def test_precision_at_k_counts_the_best_k() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.5, 0.5, 0.5]])
    labels = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
    assert metrics.precision_at(scores, labels, 1) == 50
    assert metrics.precision_at(scores, labels, 2) == 50


def test_with_one_label_an_image_precision_at_1_is_top1() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(50, 4, generator=generator), torch.randint(0, 4, (50,), generator=generator)
    one_hot = torch.nn.functional.one_hot(labels, 4).float()
    assert metrics.multilabel(scores, one_hot)["top1"] == pytest.approx(accuracy(scores, labels)["top1"])


def test_each_label_has_scikit_learn_s_precision_recall_and_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(80, 4, generator=generator) < 0.3).float()
    truth[:, 2] = 0
    scores = torch.randn(80, 4, generator=generator)
    found = metrics.by_label(scores, truth, ["a", "b", "c", "d"])
    theirs = precision_recall_fscore_support(truth, scores > 0, average=None, zero_division=0)
    for own, *figures, images in zip(found["classes"], *theirs, strict=True):
        assert [own["precision"], own["recall"], own["f1"]] == pytest.approx([100 * x for x in figures], abs=1e-6)
        assert own["images"] == images
    assert found["classes"][2]["average_precision"] is None
    for average, ours in found["averages"].items():
        if average != "macro":  # without classes that are neither there nor answered, this leaves out none
            expected = precision_recall_fscore_support(truth, scores > 0, average=average, zero_division=0)[:3]
            assert list(ours.values()) == pytest.approx([100 * x for x in expected], abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_precision_at_k_is_counted_where_there_are_so_many_labels(classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = (torch.rand(30, classes, generator=generator) < 0.5).float()
    truth[0] = 1
    scores = torch.randn(30, classes, generator=generator)
    found = metrics.multilabel_answers(scores, truth, 0.0)
    assert {f"precision{k}" for k in (3, 5) if k <= classes} == {key for key in found if key.startswith("precision")}
    for k in (1, 3, 5):
        if k <= classes:
            by_hand = np.mean([truth[i][np.argsort(-scores[i])[:k]].mean() for i in range(30)])
            assert found["top1" if k == 1 else f"precision{k}"] == pytest.approx(100 * by_hand, abs=1e-4)
