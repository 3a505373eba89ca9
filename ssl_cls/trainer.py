"""The one loop around `Step`: data, logs, health, checkpoints, signals, and the encoder at the end."""

import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import distributed

from ssl_cls import checkpoint, export, health
from ssl_cls import distributed as ranks
from ssl_cls.clock import Clock
from ssl_cls.config import Recipe
from ssl_cls.data.source import Source
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.plan import Plan, build_method, build_stream, make_plan
from ssl_cls.progress import display
from ssl_cls.run import Run, environment
from ssl_cls.step import Step


class Observer(Protocol):
    """Watches a run without touching it: weights are the same bytes with and without."""

    def epoch_end(self, method: Method, clock: Clock) -> dict[str, float]: ...


class _Signals:
    """SIGTERM and SIGINT ask for a save and an orderly end; a second one ends at once."""

    def __init__(self) -> None:
        self.received = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def agreed(self, device: torch.device) -> int:
        """The signal that any rank has received, known to all of them."""
        if ranks.num_ranks() == 1:
            return self.received
        flag = torch.tensor(self.received, device=device)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return int(flag)


def figures(outputs: Sequence[StepOutput]) -> dict[str, float]:
    """Loss, the method's own scalars and the embedding monitors of one step, over all micro-batches and ranks."""
    with torch.no_grad():
        names = ["loss", *outputs[0].logs]
        values = torch.stack([torch.stack([o.loss, *o.logs.values()]) for o in outputs]).mean(0)
        row = dict(zip(names, ranks.mean(values).tolist(), strict=True))
        row |= health.embedding_figures(ranks.gather(torch.cat([o.embedding for o in outputs])))
        if projections := [o.projection for o in outputs if o.projection is not None]:
            row |= health.projection_figures(ranks.gather(torch.cat(projections)))
        return row


def pretrain(
    recipe: Recipe,
    source: Source,
    run: Run,
    accelerator: Accelerator,
    observers: Sequence[Observer] = (),
    then: str = "",
) -> Path:
    """Train `recipe` on `source` to its last step, from the newest checkpoint if there is one; returns encoder/.

    Raises:
        UserError: the recipe does not fit the data or the ranks, or the run directory is another recipe's.
        RuntimeError: the loss is not finite. SystemExit 128+n: stopped by signal n, saved.
    """
    planned = make_plan(recipe, source, accelerator.num_processes)
    method = build_method(recipe, source, planned)
    step = Step(recipe, method, planned, accelerator)
    stream = build_stream(
        recipe,
        source,
        planned,
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
        method.needs_labels,
    )
    done, main = 0, accelerator.is_main_process
    if main:
        run.open()
    accelerator.wait_for_everyone()
    if (saved := run.latest()) is not None:
        method.load_state_dict(saved.model)
        checkpoint.restore_optimizer(step.optimizer, method, saved.optim)
        done = int(saved.state["step"])
    if main:
        run.rewind(done, int(saved.state["metrics_bytes"]) if saved else 0)
        run.say(f"{'resuming at' if done else 'starting at'} step {done} of {planned.total_steps}; {environment()}")
    del saved
    signals = _Signals()

    def save(step_done: int) -> None:
        if main:
            state = {
                "step": step_done,
                "total_steps": planned.total_steps,
                "metrics_bytes": run.metrics_bytes(),
                "environment": environment(),
                "ranks": accelerator.num_processes,
            }
            optimizer = checkpoint.optimizer_tensors(step.optimizer, method)
            checkpoint.save(run.checkpoints, state, dict(method.state_dict()), optimizer, recipe.run.keep)

    clock = Clock(done, planned.total_steps, planned.steps_per_epoch)
    waited, interval, last_logged = 0.0, time.perf_counter(), done
    finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
    batches = stream.batches(done, planned.total_steps)
    with display(recipe.name, planned.total_steps, done, then, enabled=main) as shown:
        for number in range(done, planned.total_steps):
            clock, before = clock.at(number), time.perf_counter()
            micro_batches = next(batches)
            waited += time.perf_counter() - before
            method.train()
            outputs, lr, norm = step(micro_batches, clock)
            for output in outputs:
                finite &= output.loss.isfinite()
            completed = number + 1
            epoch_ends, ends = completed % planned.steps_per_epoch == 0, completed == planned.total_steps
            saves = ends or completed % recipe.run.checkpoint_every_steps == 0
            logs = ends or completed % recipe.run.log_every_steps == 0
            stop = signals.agreed(accelerator.device) if logs or accelerator.num_processes == 1 else 0
            if (logs or saves or stop) and not bool(finite):
                raise RuntimeError(
                    f"the loss is not finite by step {completed}; the last checkpoint is kept; try a lower rate"
                )
            if logs:
                row = {
                    "step": completed,
                    "epoch": completed / planned.steps_per_epoch,
                    "samples": completed * recipe.train.batch_size,
                    **figures(outputs),
                    "lr": lr,
                    "grad_norm": float(norm),
                    "weight_growth": float(step.weight_growth()),
                }
                if main:
                    run.append("metrics.jsonl", row)
                    seconds = time.perf_counter() - interval
                    speed = (completed - last_logged) * recipe.train.batch_size / seconds
                    run.append(
                        "timing.jsonl",
                        {
                            "step": completed,
                            "seconds": seconds,
                            "images_per_second": speed,
                            "data_wait": waited / seconds,
                            "peak_memory_bytes": peak_memory(accelerator.device),
                        },
                    )
                    if shown is not None:
                        figures_shown = f"loss {row['loss']:.3f}  {speed:.0f} images/s"
                        shown.update(completed, figures_shown, waited / seconds, stream.advice)
                interval, waited, last_logged = time.perf_counter(), 0.0, completed
            if (epoch_ends or ends) and main:
                seen = {
                    name: value for observer in observers for name, value in observer.epoch_end(method, clock).items()
                }
                if seen:
                    run.append(
                        "metrics.jsonl", {"step": completed, "epoch": completed / planned.steps_per_epoch, **seen}
                    )
            if (saves or stop) and not ends:
                save(completed)
            if stop:
                raise SystemExit(128 + stop)
            if logs and main and recipe.health.stop:
                verdict = health.verdict(run.rows("metrics.jsonl"))
                if verdict.state != "healthy":
                    save(completed)
                    raise RuntimeError(str(verdict))
    if main:
        verdict = health.verdict(run.rows("metrics.jsonl"))
        run.say(str(verdict))
        print(verdict)
        if done < planned.total_steps:
            save(planned.total_steps)
        export.save_encoder(
            method.encoder, run.folder / "encoder", input_size=planned.input_size, mean=source.mean, std=source.std,
            provenance={**_provenance(recipe, source, run, planned, method), "health": verdict._asdict()},
        )  # fmt: skip
    accelerator.wait_for_everyone()
    return run.folder / "encoder"


def _provenance(recipe: Recipe, source: Source, run: Run, planned: Plan, method: Method) -> dict[str, Any]:
    images = planned.total_steps * recipe.train.batch_size
    seconds = sum(row["seconds"] for row in run.rows("timing.jsonl"))
    return {
        "run": run.folder.name,
        "method": recipe.method.name,
        "backbone": recipe.backbone.label,
        "seed": recipe.seed,
        "dataset": source.name,
        "images_seen": images,
        "view_forwards": images * (planned.views_per_image + method.target_forwards),
        "seconds": seconds,
    }


def peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
