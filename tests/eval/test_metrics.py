import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from eval.metrics import accuracy, classification


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
