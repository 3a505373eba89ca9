"""Run by test_parity.py under `accelerate launch`: a few steps, then losses and every state tensor to disk."""

import os
import sys

import torch
from safetensors.torch import save_file
from torch import nn

from ssl_cls import config, launch, plan, trainer
from ssl_cls.checkpoint import optimizer_tensors
from ssl_cls.clock import Clock
from ssl_cls.data import catalog

STEPS = 5


def without_batch_norm(module: nn.Module) -> None:
    """Its statistics are those of a micro-batch, so it is the one layer that splitting a batch changes."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(child)


def main(out: str, dtype: str, recipe_file: str, overrides: list[str]) -> None:
    number_type = getattr(torch, dtype)
    recipe = config.load(recipe_file, overrides)
    accelerator = launch.start("fp32")
    torch.set_num_threads(1)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    planned = plan.make_plan(recipe, source, ranks)
    method = plan.build_method(recipe, source, planned).to(number_type)
    if os.environ.get("PARITY_WITHOUT_BATCH_NORM"):
        without_batch_norm(method)
    step = trainer.Step(recipe, method, planned, accelerator)
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
    save_file(tensors, f"{out}.{rank}")
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
