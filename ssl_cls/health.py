"""Is the run learning anything? Figures of the embedding, and what they and the loss say in words.

A method may log `chance_loss`, the loss of an encoder that knows nothing, and `teacher_entropy` and `prototype_entropy`
of a teacher's distributions as parts of ln K; and it may hand over its `projection`, what the loss compares. There
collapse shows first, and behind SimSiam's batch norm in the effective rank alone: the spread stays healthy.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Rows = Sequence[dict[str, Any]]

_PATIENCE_STEPS, _PATIENCE_ROWS = 50, 5  # a complaint must hold this long, and in so many logged rows
_SPREAD = 0.02  # embedding_std: all images within a degree of each other; a healthy DINO in miniature was at .037
_RANK = 1.5  # effective_rank of features: fresh networks are above 3, healthy runs in the tens
_PROJECTION_RANK = 8.0, 0.25  # projection_rank: less than this, and than this part of where it began
_ENTROPY = 0.1, 0.999  # of prototypes, at least: images share few; of each target, at most: it says nothing
_LEARNING_STEPS = 200  # before them, and before the rate's peak, no loss is expected to fall
_NEAR_CHANCE = 0.02  # part of the chance loss
_GROWTH, _GROWTH_STEPS = 2.0, 300  # weight_growth over the first steps; of healthy miniatures 1.0 to 1.05


class Verdict(NamedTuple):
    state: Literal["healthy", "collapsed", "not learning"]
    reason: str  # what is seen, in which figure
    advice: str  # what to try; "" where nothing is wrong

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}" + (f"; {self.advice}" if self.advice else "")


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


def projection_figures(projection: Tensor) -> dict[str, float]:
    """The same two of the projection: projection_std and projection_rank."""
    figures = embedding_figures(projection)
    return {"projection_std": figures["embedding_std"], "projection_rank": figures["effective_rank"]}


def verdict(rows: Rows) -> Verdict:
    """What the logged metrics so far, and nothing else, say: a resumed run comes to the same verdict.

    rows: metrics.jsonl; those of observers, without a loss, are passed over.
    """
    logged = [row for row in rows if "loss" in row]
    if not logged:
        return Verdict("healthy", "nothing is logged yet", "")
    last = logged[-1]["step"]
    since = min(last - _PATIENCE_STEPS, logged[-_PATIENCE_ROWS]["step"] - 1 if len(logged) >= _PATIENCE_ROWS else -1)
    recent = [row for row in logged if row["step"] > since]
    if last >= _PATIENCE_STEPS and len(recent) >= _PATIENCE_ROWS:
        for complaint in (*_collapse(logged, recent), *_teacher(recent), *_no_learning(logged, recent)):
            return complaint
    return Verdict("healthy", f"{_figures(logged[-1])} at step {last}", "")


def _figures(row: dict[str, Any]) -> str:
    names = ("loss", "chance_loss", "embedding_std", "effective_rank", "projection_rank", "prototype_entropy")
    return ", ".join(f"{name} {row[name]:.3g}" for name in names if name in row)


def _below(recent: Rows, name: str, limit: float) -> bool:
    return all(row.get(name, limit) < limit for row in recent)


def _collapsed(recent: Rows, what: str, name: str, advice: str) -> Verdict:
    return Verdict("collapsed", f"{what} ({name} {recent[-1][name]:.3g} at step {recent[-1]['step']})", advice)


def _collapse(logged: Rows, recent: Rows) -> Iterator[Verdict]:
    """Complete, all images at one point, and dimensional, along few directions."""
    views = "look at the views with tools/views.py: are the images alike, or is nothing left of them?"
    for name in ("embedding_std", "projection_std"):
        if _below(recent, name, _SPREAD):
            what = f"all images have one {name.removesuffix('_std')}"
            yield _collapsed(recent, what, name, f"try a tenth of the learning rate; {views}")
    if _below(recent, "effective_rank", _RANK):
        what = "features vary along one direction"
        yield _collapsed(recent, what, "effective_rank", f"try a lower learning rate; {views}")
    limit, part = _PROJECTION_RANK
    if _below(recent, "projection_rank", min(limit, part * logged[0].get("projection_rank", 0.0))):
        advice = (
            "stop-gradient, predictor and momentum keep it up: are they as in the paper? Else lower the learning rate"
        )
        yield _collapsed(recent, "projections vary along few directions", "projection_rank", advice)


def _teacher(recent: Rows) -> Iterator[Verdict]:
    """One prototype takes all images, or each image takes all prototypes (Caron et al. 2021, section 5.3)."""
    low, high = _ENTROPY
    if _below(recent, "prototype_entropy", low):
        advice = "raise the teacher's temperature, and look at the centre and its momentum"
        yield _collapsed(recent, "the teacher gives all images the same few prototypes", "prototype_entropy", advice)
    if all(row.get("teacher_entropy", 0.0) > high for row in recent):
        advice = "lower the teacher's temperature or the learning rate"
        yield _collapsed(recent, "the teacher's targets are uniform", "teacher_entropy", advice)


def _no_learning(logged: Rows, recent: Rows) -> Iterator[Verdict]:
    """The weights run away, or the loss is still, or again, what an encoder comes to that knows nothing."""
    early = [row for row in logged if row["step"] <= _GROWTH_STEPS and "weight_growth" in row]
    if early and early[-1]["weight_growth"] > _GROWTH:
        reason = f"weights grew {early[-1]['weight_growth']:.3g}-fold by step {early[-1]['step']} (weight_growth)"
        yield Verdict("not learning", reason, "try a tenth of the learning rate, or a hundredth")
    peak = max(logged, key=lambda row: row.get("lr", 0.0))
    settled = recent[-1]["step"] >= max(_LEARNING_STEPS, peak["step"] + _PATIENCE_STEPS)

    def at_chance(row: dict[str, Any]) -> bool:
        chance = row.get("chance_loss", float("inf"))
        return bool(row["loss"] > chance - _NEAR_CHANCE * max(1.0, abs(chance)))

    if settled and all(at_chance(row) for row in recent):
        reason = f"the loss is that of chance ({recent[-1]['loss']:.4g} of {recent[-1]['chance_loss']:.4g}"
        advice = "try a tenth of the learning rate, or gradient clipping; look at the views with tools/views.py"
        yield Verdict("not learning", f"{reason} at step {recent[-1]['step']})", advice)
