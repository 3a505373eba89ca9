"""Views of several sizes: two global ones, which the teacher sees, and local ones, which the student sees too.

Caron et al. 2020 (SwAV), section 3.2; Caron et al. 2021 (DINO), section 3.1.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from ssl_cls.augment.view import View, expand
from ssl_cls.backbone import Backbone


def check_multi_crop(views: tuple[View, ...], method: str) -> str | None:
    """What is wrong with the views, in one sentence."""
    if sum(view.kind == "global" for view in expand(views)) != 2:
        return f"{method} needs exactly two global views, and local ones as you like"
    return None


def multi_crop(backbone: Backbone, views: Sequence[Tensor]) -> list[Tensor]:
    """[N, dim] a view, by one forward for each size: views of a size share a batch norm's statistics."""
    sizes = (torch.cat(list(same)) for _, same in groupby(views, key=lambda view: view.shape[-1]))
    return [features for size in sizes for features in backbone(size).split(len(views[0]))]
