"""A step that ended a run because it was not finite, once more: from the last checkpoint, on one process."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ssl_cls import checkpoint
from ssl_cls.assembly import assemble
from ssl_cls.config import Recipe
from ssl_cls.data import sampler
from ssl_cls.data.source import Source
from ssl_cls.errors import UserError
from ssl_cls.safety import REPORT, Judged


def read_report(folder: Path) -> dict[str, Any]:
    """What nonfinite.json says: step (0-based), seed, rank, loss, grad_norm, indices of the batch.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / REPORT
    try:
        report = json.loads(path.read_text())
        return {"step": int(report["step"]), "indices": [int(index) for index in report["indices"]], **report}
    except FileNotFoundError as error:
        fix = f"a run leaves {REPORT} when a loss or gradient is not finite"
        raise UserError("nothing to replay: this run has met no such step", str(folder), fix) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the report cannot be read: {error}", str(path), "run the same command again") from error


def replay(folder: Path, recipe: Recipe, source: Source, accelerator: Accelerator) -> Judged:
    """Train from the last checkpoint to the reported step, or one before it that is not finite: what it comes to.

    Raises:
        UserError: no report, or the images are not those of the run.
    """
    report = read_report(folder)
    target = report["step"]
    _, batch = sampler.batch_indices(target, n=len(source), batch_size=recipe.train.batch_size, seed=recipe.seed)
    if batch.tolist() != report["indices"]:
        raise UserError("the images are not those of the run: another batch would be seen", source.name)
    parts = assemble(recipe, source, accelerator)
    saved = checkpoint.newest(folder / "checkpoints")
    done = parts.restore(checkpoint.load(saved) if saved else None)
    parts.method.train()
    judged = None
    for number, batches in enumerate(parts.stream.batches(done, target + 1), done):
        parts.step(batches, parts.clock(number))
        judged = parts.step.gate.read(wait=True)
        if judged is not None and judged.bad_rank >= 0:
            break
    assert judged is not None, "a checkpoint is never of a later step than the one that failed"
    return judged
