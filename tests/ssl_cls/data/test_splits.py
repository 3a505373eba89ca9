"""What is held out: a fifth and a tenth of each class, the same every time, and no group twice."""

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_cls.data.splits import hold_out


def paths(n: int) -> list[str]:
    return [f"x/{number}.png" for number in range(n)]


def test_of_each_class_a_fifth_is_tested_and_a_tenth_of_the_rest_validates() -> None:
    labels = torch.tensor([0] * 100 + [1] * 1000 + [2] * 5 + [-1] * 50)
    found = Counter(zip(hold_out(paths(1155), labels, [""] * 1155), labels.tolist(), strict=True))
    assert [found["test", label] for label in (0, 1, 2, -1)] == [20, 200, 1, 0]
    assert [found["val", label] for label in (0, 1, 2, -1)] == [8, 80, 0, 0]


def test_classes_too_small_for_a_whole_image_take_turns_and_none_is_emptied() -> None:
    labels = torch.tensor([n // 4 for n in range(200)] + [50])  # fifty classes of four, one of one
    found = Counter(zip(hold_out(paths(201), labels, [""] * 201), labels.tolist(), strict=True))
    assert [sum(n for (own, _), n in found.items() if own == split) for split in ("test", "val")] == [40, 16]
    assert max(n for (own, _), n in found.items() if own != "train") == 1
    assert all(found["train", label] >= 1 for label in range(51))


def test_the_order_of_images_and_new_images_move_few_others() -> None:
    names = paths(3000)
    labels = torch.arange(3000) % 3
    before = dict(zip(names[:2000], hold_out(names[:2000], labels[:2000], [""] * 2000), strict=True))
    shuffled = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).tolist()
    again = hold_out([names[n] for n in shuffled], labels[shuffled], [""] * 2000)
    assert dict(zip([names[n] for n in shuffled], again, strict=True)) == before
    after = dict(zip(names, hold_out(names, labels, [""] * 3000), strict=True))
    assert sum(before[name] != after[name] for name in before) < 100


def test_without_any_label_images_are_held_out_all_the_same() -> None:
    found = Counter(hold_out(paths(100), torch.full((100,), -1), [""] * 100))
    assert found == {"train": 72, "test": 20, "val": 8}


def test_given_splits_stay_and_what_was_not_given_is_held_out_of_train() -> None:
    labels = torch.arange(60) % 2
    said = ["test"] * 10 + ["train"] * 25 + [""] * 25
    found = hold_out(paths(60), labels, said)
    assert found[:10] == ["test"] * 10
    assert Counter(found[10:]) == {"train": 45, "val": 5}


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=80),
    groups=st.lists(st.sampled_from(["", "p", "q", "r", "s", "t"]), min_size=80, max_size=80),
)
def test_every_image_is_in_one_split_with_its_group_and_train_is_never_empty(
    labels: list[int], groups: list[str]
) -> None:
    n = len(labels)
    found = hold_out(paths(n), torch.tensor(labels), [""] * n, groups[:n])
    assert set(found) <= {"train", "val", "test"}
    assert "train" in found
    for group in set(groups[:n]) - {""}:
        assert len({split for split, own in zip(found, groups, strict=False) if own == group}) == 1
    assert hold_out(paths(n), torch.tensor(labels), [""] * n, groups[:n]) == found
