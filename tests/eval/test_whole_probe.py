"""The linear probe against scikit-learn where it counts: on real images, with settings chosen as people choose them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from eval import encoders
from eval.base import Context
from eval.data import open_data
from eval.linear import Linear
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import Source, Subset, all_labels
from ssl_cls.errors import UserError


@pytest.mark.parametrize(
    ("images", "decays"),  # the best is inside, and the test says so
    [
        pytest.param(10_000, (3e-3, 1e-2, 3e-2), marks=pytest.mark.slow),
        pytest.param(54_000, (3e-4, 1e-3, 3e-3), marks=pytest.mark.oracle),  # scikit-learn needs a quarter of an hour
    ],
)
def test_it_is_within_a_tenth_of_a_point_of_the_best_that_scikit_learn_finds(
    images: int, decays: tuple[float, ...], tmp_path: Path
) -> None:
    """Pixels of Fashion-MNIST, the first of train or all; val chooses, both are refitted on train and val."""
    try:
        data = open_data(DataConfig("fashion_mnist"))
    except UserError as error:
        pytest.skip(str(error))
    data = replace(data, train=Subset(data.train, torch.arange(images), "fashion_mnist/train"))
    context = Context(torch.device("cpu"), cache=tmp_path)
    (ours,) = Linear(weight_decay=decays).run(encoders.load("pixels", data, 0), data, context)

    (x, y), (val, val_y), (test, test_y) = (_pixels(source) for source in (data.train, data.val, data.test))
    on_val = {decay: _fitted(x, y, decay).score(val, val_y) for decay in decays}
    best = max(decays, key=lambda decay: on_val[decay])
    assert decays[0] < best < decays[-1]
    theirs = _fitted(torch.cat((x, val)), torch.cat((y, val_y)), best).score(test, test_y)
    print(f"top-1 of {len(test)}: {ours.metrics['top1']:.2f} by {ours.settings}, theirs {100 * theirs:.2f} by {best}")
    assert (ours.n_train, ours.settings) == (images + len(val), {"weight_decay": best})
    assert ours.metrics["top1"] == pytest.approx(100 * theirs, abs=0.1)


def _pixels(source: Source) -> tuple[Tensor, Tensor]:
    """float64 [N, 784], int64 [N]."""
    return source.pixels(torch.arange(len(source))).flatten(1).double() / 255, all_labels(source)


def _fitted(x: Tensor, y: Tensor, weight_decay: float):  # type: ignore[no-untyped-def]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (weight_decay * len(x)), max_iter=1000))
    return probe.fit(x.numpy(), y.numpy())
