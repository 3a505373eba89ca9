"""Is the run learning anything? Figures of the embedding, and what they say in words."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_COLLAPSED_RANK = 1.5  # a healthy run's effective rank is in the tens; random features of a fresh network are above 3
_PATIENCE = 5  # logged steps in a row


def embedding_figures(embedding: Tensor) -> dict[str, float]:
    """Two monitors of [B, D] encoder outputs.

    embedding_std: mean over dimensions of the standard deviation of the unit-length embedding, times sqrt(D): near 1
        when directions are spread, 0 when all images map to one point (Chen & He 2021, figure 2).
    effective_rank: exp of the entropy of the normalised singular values (Roy & Vetterli 2007). Differs from RankMe
        (Garrido et al. 2023): computed on the centred embedding, since a common offset is not information.
    """
    x = embedding.float()
    std = F.normalize(x, dim=1).std(dim=0).mean() * x.shape[1] ** 0.5
    centred = x - x.mean(0)
    gram = centred @ centred.T if len(x) <= x.shape[1] else centred.T @ centred
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = singular.sum()
    share = singular / total.clamp(min=torch.finfo(torch.float32).tiny)
    rank = torch.special.entr(share).sum().exp() if total > 0 else torch.ones(())
    return {"embedding_std": float(std), "effective_rank": float(rank)}


def verdict(rows: Sequence[dict[str, Any]]) -> str | None:
    """None while nothing is wrong; else one sentence: what is seen, in which figure, and what to try.

    rows: the logged metrics so far, so that a resumed run comes to the same verdict.
    """
    recent = [row["effective_rank"] for row in rows[-_PATIENCE:] if "effective_rank" in row]
    if len(recent) == _PATIENCE and max(recent) < _COLLAPSED_RANK:
        return (
            f"collapsed: the embedding's effective rank has been below {_COLLAPSED_RANK} for {_PATIENCE} logged steps "
            f"(now {recent[-1]:.2f}); try a lower learning rate, and check the views with tools/views.py"
        )
    return None
