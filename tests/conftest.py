"""Synthetic run directories: rows with known accuracies and predictions, as evaluation writes them. Random batches."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from ssl_cls.config import Recipe
    from ssl_cls.data.batch import Batch

SyntheticRun = Callable[..., Path]
RandomBatch = Callable[..., "Batch"]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or leaves anything in the cache of the person who runs it."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_precision() -> None:
    """Accelerate keeps the first precision of a process, and here a process is many runs."""
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state()


@pytest.fixture
def own_signals() -> Iterator[None]:
    """A run sets handlers; the tests' own come back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def synthetic_run(tmp_path: Path) -> SyntheticRun:
    """`synthetic_run(name, method, results)` writes a run directory and returns it.

    results: dicts with `evaluator`, `correct` (bool [n_test]), and n_labels, draw or any other key of a row.
    """

    from eval.base import PLACE, stem

    def write(
        name: str,
        method: str,
        results: list[dict[str, Any]],
        *,
        labels: np.ndarray | None = None,
        seed: int = 0,
        seconds: float | None = None,
        **row: Any,
    ) -> Path:
        run = tmp_path / "runs" / name
        (run / "eval").mkdir(parents=True)
        lines = []
        for result in results:
            correct = np.asarray(result["correct"], dtype=bool)
            line: dict[str, Any] = {
                "run": name,
                "method": method,
                "backbone": "" if method == "pixels" else "resnet_small",
                "encoder_sha256": f"{name}-{seed}",
                "seed": seed,
                "settings": {},
                "dataset": "digits",
                "pretrain": {"dataset": "digits/train", "images_seen": 0, "view_forwards": 0},
                "n_labels": None,
                "draw": None,
                "n_train": 1437,
                "n_test": len(correct),
                "metrics": {"top1": 100 * float(correct.mean())},
                "chosen_on": "val",
                "device": "cpu",
                **row,
                **{key: value for key, value in result.items() if key != "correct"},
            }
            lines.append(json.dumps(line))
            if labels is not None:
                path = run / "eval" / "predictions" / f"{stem(*(line[key] for key in PLACE))}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                answers = np.where(correct, labels, (labels + 1) % (labels.max() + 1)).astype(np.int64)
                np.save(path, answers)
        (run / "eval" / "results.jsonl").write_text("".join(line + "\n" for line in lines))
        if seconds is not None:
            (run / "encoder").mkdir()
            (run / "encoder" / "provenance.json").write_text(json.dumps({"seconds": seconds}))
        return run

    return write


@pytest.fixture
def random_batch() -> RandomBatch:
    """`random_batch(recipe, number)`: noise for every view that the resolved recipe asks for, and labels 0 to 2."""
    import torch

    from ssl_cls.augment.view import expand
    from ssl_cls.data.batch import Batch
    from ssl_cls.rng import DrawKey

    def make(recipe: "Recipe", number: int, channels: int = 1) -> Batch:
        generator = torch.Generator().manual_seed(number)
        views: dict[str, list[torch.Tensor]] = {"global": [], "local": []}
        n = recipe.train.batch_size
        for view in expand(recipe.views or ()):
            views[view.kind].append(torch.randn(n, channels, view.size or 0, view.size or 0, generator=generator))
        index = torch.arange(n) + n * number
        return Batch(views, index, DrawKey(0, number), index % 3)

    return make
