"""What MAE's encoder sees of images and what its decoder makes of that."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ssl_cls import checkpoint, plan
from ssl_cls.clock import Clock
from ssl_cls.config import Recipe
from ssl_cls.data.batch import Batch
from ssl_cls.data.source import Source
from ssl_cls.errors import UserError
from ssl_cls.methods.mae import MAE


class Reconstruction(NamedTuple):
    visible: Tensor  # [B, C, H, W], normalised; masked patches are the mean
    answer: Tensor | None  # [B, C, H, W]; None: nothing has been learnt yet
    share: float  # of patches visible
    step: int
    norm_pixels: bool  # only deviations were learnt: each patch was given its mean and standard deviation


def reconstruct(recipe: Recipe, source: Source, batch: Batch, folder: Path) -> Reconstruction:
    """By the newest sound checkpoint in `folder`.

    Raises:
        UserError: the checkpoint is of another model than the recipe's.
    """
    planned = plan.make_plan(recipe, source, 1)
    method = plan.build_method(recipe, source, planned).eval()
    assert isinstance(method, MAE)
    saved = checkpoint.newest(folder / "checkpoints")
    step = 0
    if saved is not None:
        state = checkpoint.load(saved)
        try:
            method.load_state_dict(state.model)
        except RuntimeError as error:
            raise UserError(
                f"{saved} is of another model than the recipe's", "--run", "give a run of this recipe"
            ) from error
        step = int(state.state["step"])
    visible, answer = method.reconstruct(batch, Clock(step, planned.total_steps, planned.steps_per_epoch))
    share = 1 - method.num_masked / method.num_patches
    return Reconstruction(visible, None if saved is None else answer, share, step, method.config.norm_pixels)
