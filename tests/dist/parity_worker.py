"""Run by test_parity.py under `accelerate launch`: for each job a few steps, then losses and all state to disk."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from ssl_cls import config, launch, plan, trainer
from ssl_cls.checkpoint import optimizer_tensors
from ssl_cls.clock import Clock
from ssl_cls.data import catalog
from ssl_cls.step import Step

STEPS = 5


def without_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(child)


def work(job: dict[str, Any], accelerator: Accelerator) -> None:
    number_type = getattr(torch, job["dtype"])
    recipe = config.load(job["recipe"], job["overrides"])
    rank, ranks = accelerator.process_index, accelerator.num_processes
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    planned = plan.make_plan(recipe, source, ranks)
    method = plan.build_method(recipe, source, planned).to(number_type)
    if not job["norm"]:
        without_batch_norm(method)
    step = Step(recipe, method, planned, accelerator)
    stream = plan.build_stream(recipe, source, planned, accelerator.device, rank, ranks, step.method.needs_labels)
    tensors, losses, seen = {}, [], []
    for number, batches in enumerate(stream.batches(0, STEPS)):
        batches = [b._replace(views={k: [v.to(number_type) for v in vs] for k, vs in b.views.items()}) for b in batches]
        outputs, _, norm = step(batches, Clock(number, STEPS, planned.steps_per_epoch))
        losses.append(torch.stack([trainer.ranks.mean(torch.stack([o.loss for o in outputs]).mean()), norm]))
        seen.append(
            torch.cat([torch.stack(batch.views["global"]) for batch in batches], dim=1)
        )  # [views, images, C, H, W]
    tensors["losses"] = torch.stack(losses)
    tensors["views"] = torch.stack(seen)
    if rank == 0:
        tensors |= {f"model/{k}": v.contiguous() for k, v in step.method.state_dict().items()}
        tensors |= {f"optim/{k}": v.contiguous() for k, v in optimizer_tensors(step.optimizer, step.method).items()}
    save_file(tensors, f"{job['out']}.{rank}")


def main(jobs: str) -> None:
    accelerator = launch.start("fp32")
    torch.set_num_threads(1)
    for job in json.loads(Path(jobs).read_text()):
        work(job, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
