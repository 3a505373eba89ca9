"""The leakage guard finds what was planted, and nothing else than an exhaustive search finds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from eval.report import leakage
from ssl_cls.data.arrays import Arrays
from ssl_cls.errors import UserError


def source(name: str, images: torch.Tensor) -> Arrays:
    return Arrays(name, images, torch.zeros(len(images), dtype=torch.long), ["a"], *[(0.5,) * images.shape[1]] * 2)


def noise(count: int, seed: int, channels: int = 1, side: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (count, channels, side, side), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("channels", "side"), [(1, 12), (3, 40)])
def test_planted_copies_are_found_and_told_apart(channels: int, side: int, tmp_path: Path) -> None:
    bank, test = noise(300, 0, channels, side), noise(100, 1, channels, side)
    test[5] = bank[17]  # the same pixels
    test[6] = bank[18] + 30  # brighter: correlation 1, other pixels
    test[7] = bank[19]
    test[7, :, 0, :2] += 5  # two pixels changed a little
    found = leakage.find(source("bank/train", bank), source("bank/test", test), tmp_path)
    assert (found.exact, found.near, found.num_test) == (1, 2, 100)
    assert {(query, place) for query, place, _ in found.pairs} == {(5, 17), (6, 18), (7, 19)}
    assert "of 100 test images, 1 are pixel for pixel among the 300 of bank/train, and 2 more" in found.sentence
    assert "(3.00 % together)" in found.sentence


def test_the_filter_loses_nothing_that_an_exhaustive_search_finds() -> None:
    """Copies with more and more noise lie on both sides of the threshold."""
    generator = torch.Generator().manual_seed(0)

    def unit(x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(1, keepdim=True)
        return x / x.norm(dim=1, keepdim=True)

    bank = unit(torch.randn(2000, 60, generator=generator) @ torch.randn(60, 144, generator=generator))
    noise = unit(torch.randn(1300, 144, generator=generator))
    queries = unit(bank[:1300] + torch.linspace(0, 0.3, 1300)[:, None] * noise)
    best = (queries.double() @ bank.double().T).numpy().max(1)
    clear = np.abs(best - leakage.THRESHOLD) > 1e-6
    found = leakage._near(bank, queries)
    expected = {int(i) for i in np.flatnonzero((best >= leakage.THRESHOLD) & clear)}
    assert 200 < len(expected) < 1100
    assert expected <= set(found) <= expected | set(np.flatnonzero(~clear).tolist())
    for query in expected:
        assert found[query] == (query, pytest.approx(best[query], abs=1e-5))


def test_a_check_is_kept_and_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    bank, test = source("x/train", noise(40, 0)), source("x/test", noise(20, 1))
    first = leakage.find(bank, test, tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace('"exact": 0', '"exact": 9'))
    assert leakage.find(bank, test, tmp_path).exact == 9  # read, not computed
    kept.write_text("{")
    assert leakage.find(bank, test, tmp_path) == first
    other = source("x/test", noise(20, 2))
    assert leakage.find(bank, other, tmp_path).exact == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_changes_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bank, test = source("x/train", noise(40, 0)), source("x/test", noise(20, 1))
    assert leakage.find(bank, test, tmp_path / "file") == leakage.find(bank, test, tmp_path / "cache")


def test_images_of_another_shape_are_no_copies(tmp_path: Path) -> None:
    found = leakage.find(source("a/train", noise(30, 0)), source("b/test", noise(30, 0, side=10)), tmp_path)
    assert (found.exact, found.near) == (0, 0)


def test_a_set_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(leakage, "MOST", 29)
    with pytest.raises(UserError, match="30 images are more than"):
        leakage.find(source("a/train", noise(30, 0)), source("a/test", noise(20, 1)), tmp_path)


def test_flat_images_are_copies_only_of_themselves(tmp_path: Path) -> None:
    """An image without contrast correlates with nothing, and is not divided by zero."""
    flat = torch.full((1, 1, 12, 12), 7, dtype=torch.uint8)
    bank = torch.cat((noise(30, 0), flat))
    found = leakage.find(source("a/train", bank), source("a/test", torch.cat((flat, flat + 1))), tmp_path)
    assert (found.exact, found.near) == (1, 0)


def test_mirrored_copies_and_copies_of_another_size_are_found(tmp_path: Path) -> None:
    smooth = torch.nn.functional.interpolate(noise(40, 0, 3, 6).float(), size=(48, 48), mode="bicubic").clamp(0, 255)
    bank, test = smooth.to(torch.uint8), noise(20, 1, 1, 28)
    small = torch.nn.functional.interpolate(bank.float().mean(1, keepdim=True), size=(28, 28), mode="area")
    test[3], test[4] = small[7].round().to(torch.uint8), small[9].flip(2).round().to(torch.uint8)
    found = leakage.find(source("bank/train", bank), source("bank/test", test), tmp_path)
    assert (found.exact, found.near) == (0, 2)
    assert {(query, place) for query, place, _ in found.pairs} == {(3, 7), (4, 9)}
    mirrored = leakage.find(source("x/train", bank), source("x/test", bank[:5].flip(3)), tmp_path)
    assert mirrored.near == 5
