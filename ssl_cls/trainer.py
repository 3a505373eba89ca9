"""The one loop around `Step`: data, logs, health, checkpoints, signals, and the encoder at the end."""

import resource
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from ssl_cls import checkpoint, export, health, memory, peers, safety
from ssl_cls import distributed as ranks
from ssl_cls.assembly import Parts, assemble
from ssl_cls.augment.augment import AS_USUAL, Framing
from ssl_cls.clock import Clock
from ssl_cls.config import Recipe
from ssl_cls.data import sampler
from ssl_cls.data.source import Source
from ssl_cls.errors import RunError, UserError
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.plan import Plan
from ssl_cls.progress import display
from ssl_cls.run import Run, environment
from ssl_cls.signals import Signals, exit_status


class Observer(Protocol):
    """Watches a run without touching it: weights are the same bytes with and without."""

    def epoch_end(self, method: Method, clock: Clock) -> dict[str, float]: ...


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
        RunError: the loss or its gradient is not finite, a rank is lost, memory or disk do not suffice.
        SystemExit: 143 or 130: stopped by a signal, saved.
    """
    parts = assemble(recipe, source, accelerator)
    if accelerator.is_main_process:
        run.open()
        run.set_aside()
    all_ranks = peers.Peers(accelerator.device)
    signals = Signals(tell=accelerator.is_main_process)
    try:
        accelerator.wait_for_everyone()
        while True:
            try:
                return _train(recipe, source, run, accelerator, parts, signals, observers, then)
            except torch.OutOfMemoryError as error:
                smaller = memory.halved(parts.planned, parts.method, parts.step.taken, accelerator.num_processes, error)
            del parts  # out of the handler, whose traceback holds on to what did not fit, as Accelerate does
            accelerator.free_memory()
            if accelerator.is_main_process:
                run.announce(f"out of memory: {smaller} images at a time from here on, the global batch stays")
            adapted = replace(recipe, train=replace(recipe.train, micro_batch_size=smaller))
            parts = assemble(adapted, source, accelerator)
    except RuntimeError as error:
        if accelerator.is_main_process:
            run.say(traceback.format_exc())
        if (told := peers.lost(error, all_ranks, str(run.folder))) is not None:
            raise told from error
        raise


def _train(
    recipe: Recipe,
    source: Source,
    run: Run,
    accelerator: Accelerator,
    parts: Parts,
    signals: Signals,
    observers: Sequence[Observer],
    then: str,
) -> Path:
    main, (planned, method, step, stream) = accelerator.is_main_process, parts
    conditions = {**environment(), "precision": "bf16" if accelerator.mixed_precision == "bf16" else "fp32"}
    saved = run.latest()
    done = parts.restore(saved)
    found = ranks.gather(torch.tensor([done], device=accelerator.device))
    if bool((found != done).any()):
        what = f"the ranks found checkpoints of different steps: {found.tolist()}"
        raise RunError(what, str(run.checkpoints), "give all ranks one run directory that they share")
    if saved and saved.state.get("images", source.members) != source.members:
        raise UserError(
            f"{source.name} is no longer what this run was begun on: images were added, removed, changed, or moved "
            "between splits, as new labels do",
            str(run.folder),
            "undo that, or begin another run with run.dir=",
        )
    if main:
        run.rewind(done, int(saved.state["metrics_bytes"]) if saved else 0)
        run.say(f"{'resuming at' if done else 'starting at'} step {done} of {planned.total_steps}; {conditions}")
    del saved

    def save(step_done: int, needed: bool) -> None:
        """`needed`: there is no later one to make up for it."""
        if not main:
            return
        state = {
            "step": step_done,
            "total_steps": planned.total_steps,
            "metrics_bytes": run.metrics_bytes(),
            "environment": conditions,
            "ranks": accelerator.num_processes,
            "images": source.members,
        }
        optimizer = checkpoint.optimizer_tensors(step.optimizer, method)
        try:
            checkpoint.save(run.checkpoints, state, dict(method.state_dict()), optimizer, recipe.run.keep)
        except OSError as error:
            what = f"the checkpoint of step {step_done} could not be written: {error}"
            if needed:
                raise RunError(what, str(run.checkpoints), "make room or allow writing; the same command resumes from "
                               "the checkpoint before") from error  # fmt: skip
            run.announce(f"{what}; the one before is kept, and the run goes on")
        run.list_bad(stream.bad)

    clock = parts.clock(done)
    waited, interval, last_logged = 0.0, time.perf_counter(), done
    batches = stream.batches(done, planned.total_steps)
    with display(recipe.name, planned.total_steps, done, then, enabled=main) as shown:
        for number in range(done, planned.total_steps):
            clock, before = clock.at(number), time.perf_counter()
            micro_batches = next(batches)
            waited += time.perf_counter() - before
            method.train()
            outputs, lr, norm = step(micro_batches, clock, signals.received)
            completed = number + 1
            epoch_ends, ends = completed % planned.steps_per_epoch == 0, completed == planned.total_steps
            saves = ends or completed % recipe.run.checkpoint_every_steps == 0
            logs = ends or completed % recipe.run.log_every_steps == 0
            judged = step.gate.read(wait=logs or saves or epoch_ends)
            if judged is not None and judged.signal and judged.bad_rank < 0:
                judged = step.gate.read(wait=True) or judged  # what is saved now must be judged, on a GPU too
            if judged is not None and judged.bad_rank >= 0:
                _, batch = sampler.batch_indices(
                    judged.step, n=len(source), batch_size=recipe.train.batch_size, seed=recipe.seed
                )
                raise safety.refuse_nonfinite(run.folder, judged, recipe.seed, batch.tolist(), write=main)
            stop = judged.signal if judged is not None else 0
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
                save(completed, needed=bool(stop))
            if stop and not ends:  # the last step was taken: nothing is left to stop
                accelerator.wait_for_everyone()  # a launcher ends all ranks once one has ended: not within the save
                raise SystemExit(exit_status(stop))
            if logs and main and recipe.health.stop:
                verdict = health.verdict(run.rows("metrics.jsonl"))
                if verdict.state != "healthy":
                    save(completed, needed=False)
                    raise RunError(f"{verdict.state}: {verdict.reason}", str(run.folder), verdict.advice)
    if main:
        verdict = health.verdict(run.rows("metrics.jsonl"))
        run.say(str(verdict))
        print(verdict)
        if done < planned.total_steps:
            save(planned.total_steps, needed=True)
        if bad := run.list_bad(stream.bad):
            run.announce(f"{bad} images could not be read; others stood in for them: {run.folder / 'bad_images.txt'}")
        try:
            export.save_encoder(
                method.encoder, run.folder / "encoder", input_size=planned.input_size, mean=source.mean, std=source.std,
                provenance={**_provenance(recipe, source, run, planned, method), "health": verdict._asdict()},
                framing=AS_USUAL if source.size is None else Framing(1.0),  # files are cropped, arrays shown whole
            )  # fmt: skip
        except OSError as error:
            raise RunError(f"the encoder could not be written: {error}", str(run.folder), "make room or allow writing; "
                           "the same command writes it from the last checkpoint") from error  # fmt: skip
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
        "images": source.members,
        "images_seen": images,
        "view_forwards": images * (planned.views_per_image + method.target_forwards),
        "seconds": seconds,
    }


def peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
