import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eval.draws import Pool, folds, label_draw, pool_labels, ranks
from ssl_cls.data.source import Subset
from ssl_cls.errors import UserError

LABELS = torch.randint(0, 10, (5000,), generator=torch.Generator().manual_seed(0))


class Numbers:
    """Image i is filled with i; its label is i % 5."""

    name, fingerprint, members, num_classes, class_names = "numbers/all", "00", "00", 5, None
    channels, size, mean, std = 1, (2, 2), (0.5,), (0.5,)

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def sizes(self, indices: Tensor) -> Tensor:
        return torch.stack((indices, indices + 1), 1)

    def pixels(self, indices: Tensor) -> Tensor:
        return indices[:, None, None, None].expand(-1, 1, 2, 2).to(torch.uint8)

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        return [indices[:, None] * 1000 + box[:, :1].long() for box in boxes]

    def labels(self, indices: Tensor) -> Tensor:
        return indices % 5


@pytest.mark.parametrize("number", [0, 1, 4])
def test_draws_are_nested_and_balanced(number: int) -> None:
    large = label_draw(LABELS, 10, 603, number)
    assert len(set(large.tolist())) == 603
    for n in (10, 20, 100, 599, 603):
        counts = torch.bincount(LABELS[label_draw(LABELS, 10, n, number)], minlength=10)
        assert label_draw(LABELS, 10, n, number).equal(large[:n])
        assert counts.min() == n // 10
        assert counts.max() == -(-n // 10)


def test_a_draw_depends_on_labels_and_number_alone() -> None:
    torch.manual_seed(1)
    first = label_draw(LABELS, 10, 100, 0)
    torch.manual_seed(2)
    assert label_draw(LABELS, 10, 100, 0).equal(first)
    overlap = len(set(first.tolist()) & set(label_draw(LABELS, 10, 100, 1).tolist()))
    assert overlap < 12  # of 100 out of 5000: 2 expected by chance


def test_every_image_of_a_class_is_as_likely() -> None:
    labels = torch.arange(200) % 2
    drawn = torch.zeros(200)
    for number in range(400):
        drawn[label_draw(labels, 2, 50, number)] += 1
    assert drawn.sum() == 400 * 50
    expected, sd = 100, (400 * 0.25 * 0.75) ** 0.5
    assert ((drawn - expected).abs() < 4.5 * sd).all()
    assert drawn.std() == pytest.approx(sd, rel=0.2)


def test_who_gets_the_remainder_is_drawn_fairly_when_classes_differ_in_size() -> None:
    labels = torch.cat((torch.zeros(1000, dtype=torch.int64), torch.ones(50, dtype=torch.int64)))
    extra = [int(labels[label_draw(labels, 2, 5, number)].sum()) == 2 for number in range(300)]
    assert 110 < sum(extra) < 190  # 4.6 standard deviations around 150


def test_a_small_class_gives_all_it_has_and_the_others_fill_up() -> None:
    labels = torch.cat((torch.zeros(3, dtype=torch.int64), torch.ones(40, dtype=torch.int64)))
    assert torch.bincount(labels[label_draw(labels, 2, 20, 0)]).tolist() == [3, 17]
    assert sorted(label_draw(labels, 2, 43, 0).tolist()) == list(range(43))


def _several(n: int, seed: int) -> Tensor:
    """Float [n, 4]: labels of very different frequency, and images with none."""
    shares = torch.tensor([0.6, 0.3, 0.1, 0.03])
    return (torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)) < shares).float()


def test_several_labels_an_image_are_drawn_nested_and_evenly() -> None:
    labels = _several(3000, 0)
    large = label_draw(labels, 4, 200, 1)
    assert len(set(large.tolist())) == 200
    for n in (10, 60, 199):
        assert label_draw(labels, 4, n, 1).equal(large[:n])
    counts, by_chance = labels[large].sum(0), labels[:200].sum(0)
    assert counts.max() / counts.min() < 3 < by_chance.max() / by_chance.min()
    assert not label_draw(labels, 4, 60, 2).equal(large[:60])
    assert sorted(label_draw(labels[:100], 4, 100, 0).tolist()) == list(range(100))


def test_with_one_label_an_image_its_draw_is_as_balanced_as_classes_are() -> None:
    one_hot = torch.nn.functional.one_hot(LABELS, 10).float()
    counts = one_hot[label_draw(one_hot, 10, 603, 0)].sum(0)
    assert (counts.min(), counts.max()) == (60, 61)


def test_folds_of_several_labels_have_the_rare_ones_everywhere() -> None:
    labels = _several(3000, 0)
    drawn = labels[label_draw(labels, 4, 100, 0)]
    fold = folds(drawn)
    assert torch.bincount(fold, minlength=5).sum() == 100
    for k in range(5):
        assert (drawn[fold == k].sum(0) > 0).all()
    one_hot = torch.nn.functional.one_hot(torch.arange(50) % 5, 5).float()
    assert folds(one_hot).equal(folds(torch.arange(50) % 5))  # no label has a fold to itself


def test_unknown_labels_are_never_drawn() -> None:
    labels = LABELS.where(torch.arange(len(LABELS)) % 3 > 0, -1)
    assert (labels[label_draw(labels, 10, 600, 0)] >= 0).all()


@pytest.mark.parametrize(
    ("labels", "n", "says"),
    [
        (LABELS[:99], 100, "99 labelled"),
        (LABELS.where(LABELS < 1, -1), 600, "labelled images"),
        (LABELS, 9, "fewer than one"),
    ],
)
def test_impossible_draws_are_refused(labels: Tensor, n: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        label_draw(labels, 10, n, 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_ranks_count_within_classes(labels: list[int]) -> None:
    assert ranks(torch.tensor(labels)).tolist() == [labels[:i].count(label) for i, label in enumerate(labels)]


@pytest.mark.parametrize("n", [20, 100, 600])
def test_folds_are_stratified_and_of_like_sizes(n: int) -> None:
    labels = LABELS[label_draw(LABELS, 10, n, 0)]
    fold = folds(labels)
    for label in range(10):
        counts = torch.bincount(fold[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    sizes = torch.bincount(fold, minlength=5)
    assert sizes.max() - sizes.min() <= 2


def test_a_pool_is_its_parts_end_to_end() -> None:
    whole = Numbers(12)
    pool = Pool(
        "numbers/pool",
        Subset(whole, torch.arange(7), "numbers/a"),
        Subset(whole, torch.arange(7, 12), "numbers/b"),
    )
    indices = torch.tensor([11, 0, 6, 7, 3])
    assert len(pool) == 12
    assert pool.pixels(indices).equal(whole.pixels(indices))
    assert pool.sizes(indices).equal(whole.sizes(indices))
    assert pool.labels(indices).equal(whole.labels(indices))
    assert pool_labels(*pool.parts).equal(whole.labels(torch.arange(12)))
    boxes = [torch.arange(20.0).view(5, 4), -torch.arange(20.0).view(5, 4)]
    for got, expected in zip(
        pool.crops(indices, boxes, [2, 2], "bilinear"),
        whole.crops(indices, boxes, [2, 2], "bilinear"),
        strict=True,
    ):
        assert got.equal(expected)
