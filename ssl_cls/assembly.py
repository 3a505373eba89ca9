"""The parts that a recipe names, built for one rank and put where a checkpoint left them."""

from typing import NamedTuple

from accelerate import Accelerator

from ssl_cls import checkpoint
from ssl_cls.clock import Clock
from ssl_cls.config import Recipe
from ssl_cls.data.source import Source
from ssl_cls.data.stream import Stream
from ssl_cls.methods.base import Method
from ssl_cls.plan import Plan, build_method, build_stream, make_plan
from ssl_cls.step import Step


class Parts(NamedTuple):
    """What a recipe comes to on given data and ranks, built."""

    planned: Plan
    method: Method
    step: Step
    stream: Stream

    def clock(self, step: int) -> Clock:
        return Clock(step, self.planned.total_steps, self.planned.steps_per_epoch)

    def restore(self, saved: checkpoint.Checkpoint | None) -> int:
        """Go on from a checkpoint; returns the number of steps it has done, 0 without one."""
        if saved is None:
            return 0
        self.method.load_state_dict(saved.model)
        checkpoint.restore_optimizer(self.step.optimizer, self.method, saved.optim)
        return int(saved.state["step"])


def assemble(recipe: Recipe, source: Source, accelerator: Accelerator) -> Parts:
    """The parts of a complete recipe for this rank, with fresh weights.

    Raises:
        UserError: the recipe does not fit the data or the ranks.
    """
    num_ranks, rank = accelerator.num_processes, accelerator.process_index
    planned = make_plan(recipe, source, num_ranks)
    method = build_method(recipe, source, planned)
    step = Step(recipe, method, planned, accelerator)
    stream = build_stream(recipe, source, planned, accelerator.device, rank, num_ranks, method.needs_labels)
    return Parts(planned, method, step, stream)
