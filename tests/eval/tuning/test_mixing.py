from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from eval.tuning.mixing import Mix, draw, erase, mix
from ssl_cls.rng import DrawKey

IMAGES = torch.rand(6, 2, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])
SETTINGS = [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)]


@pytest.mark.parametrize(("mixup", "cutmix"), SETTINGS)
def test_targets_sum_to_one_and_draws_are_a_function_of_seed_and_step(mixup: float, cutmix: float) -> None:
    drawn = [draw(5, step, mixup, cutmix, 12) for step in range(40)]
    assert drawn == [draw(5, step, mixup, cutmix, 12) for step in range(40)]
    assert len({one.kept for one in drawn}) > 20
    assert drawn != [draw(6, step, mixup, cutmix, 12) for step in range(40)]
    assert {one.box is None for one in drawn} == ({True, False} if mixup and cutmix else {bool(mixup)})
    for one in drawn:
        assert 0 <= one.kept <= 1
        _, targets = mix(IMAGES, LABELS, 3, one, 0.1)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))


@pytest.mark.parametrize(("mixup", "cutmix"), SETTINGS)
def test_timm_mixes_the_same_when_it_draws_the_same(
    mixup: float, cutmix: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Mixup(mixup, cutmix, prob=1.0, label_smoothing=0.1, num_classes=3)
    for step in range(20):
        generator = np.random.default_rng((5, step))
        # timm first draws whether it mixes at all, which we always do
        rolls: Iterator[float] = iter([0.0, generator.random()] if mixup and cutmix else [0.0])
        monkeypatch.setattr(np.random, "rand", lambda rolls=rolls: next(rolls))
        monkeypatch.setattr(np.random, "beta", generator.beta)
        centre: list[int] = []

        def randint(low: int, high: int, size: None, generator: Any = generator, centre: list[int] = centre) -> int:
            centre[:] = centre or generator.integers(low, high, 2).tolist()
            return centre.pop(0)

        monkeypatch.setattr(np.random, "randint", randint)
        expected, expected_targets = theirs(IMAGES.clone(), LABELS)
        images, targets = mix(IMAGES, LABELS, 3, draw(5, step, mixup, cutmix, 12), 0.1)
        torch.testing.assert_close(images, expected)
        torch.testing.assert_close(targets, expected_targets)


def test_labels_of_several_classes_are_mixed_too() -> None:
    several = torch.tensor([[1.0, 1.0, 0.0]] * 3 + [[0.0, 0.0, 0.0]] * 3)
    _, targets = mix(IMAGES, several, 3, Mix(0.25, None), 0.0)
    assert targets[0].tolist() == [0.25, 0.25, 0.0]
    assert targets[5].tolist() == [0.75, 0.75, 0.0]


def test_erasing_takes_a_rectangle_of_the_asked_for_size_from_the_asked_for_share() -> None:
    images = torch.ones(2000, 1, 20, 30)
    index, key = torch.arange(2000), DrawKey(1, 2)
    gone = erase(images, index, key, 0.25)[:, 0] == 0
    hit = gone.any(2).any(1)
    assert hit.double().mean().item() == pytest.approx(0.25, abs=0.04)
    share = gone[hit].double().mean((1, 2))
    assert share.max() <= 0.36
    assert share.mean().item() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    for one in gone[hit][:50]:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns[None])
        assert rows.nonzero().diff(dim=0).eq(1).all()
    part = erase(images[:7], index[:7], key, 0.25)
    assert torch.equal(part, erase(images, index, key, 0.25)[:7])  # whatever the batch
    assert torch.equal(erase(images, index, key, 0.0), images)
