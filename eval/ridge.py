"""Ridge regression on frozen features: a classifier in closed form, for when seconds matter."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.base import Context, Encoder, EvalData, Result
from eval.frozen import frozen
from eval.heads import Heads, moments
from eval.tasks import SHARE
from ssl_cls.spec import Positive, spec


@spec
class Ridge:
    """Least squares towards 0 and 1 on standardised features, its penalty chosen on val, refitted on train and val."""

    name: Literal["ridge/v1"] = "ridge/v1"
    penalty: tuple[Positive, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

    def run(self, encoder: Encoder, data: EvalData, context: Context) -> list[Result]:
        given = frozen(encoder, data, context)
        if given is None:
            return []
        train, val, both, test, task = given
        sweep = range(len(self.penalty))
        fitted = solve(train.x, _targets(train.y, data.num_classes), self.penalty)
        best = max(sweep, key=lambda s: task.judge_shares(fitted.logits(val.x, s), val.y)[task.score])
        fitted = solve(both.x, _targets(both.y, data.num_classes), self.penalty)
        on_test = [task.judge_shares(fitted.logits(test.x, s), test.y) for s in sweep]
        return [
            Result(
                evaluator=self.name,
                settings={"penalty": self.penalty[best]},
                metrics=on_test[best],
                n_train=len(both.y),
                n_test=len(test.y),
                predictions=task.answers(fitted.logits(test.x, best), SHARE),
                chosen_on="val",
                optimism=[{"settings": {"penalty": self.penalty[s]}, "top1": on_test[s]["top1"]} for s in sweep],
            )
        ]


def solve(features: Tensor, targets: Tensor, penalties: tuple[float, ...]) -> Heads:
    """For each penalty the minimum over (W, b) of |Z W + b - Y|^2 / N + penalty |W|^2, b free.

    Z are the features [N, D] standardised as in `heads.fit`, Y the targets [N, K]. One eigendecomposition of Z'Z / N
    serves all penalties. In scikit-learn's terms alpha = penalty * N.
    """
    mean, std = moments(features)
    z = (features - mean) / std
    offset = targets.mean(0, dtype=torch.float64)
    spectrum, axes = torch.linalg.eigh((z.T @ z).double() / len(z))
    moment = axes.T @ (z.T @ (targets - offset.float())).double() / len(z)  # [D, K]
    shrinking = 1 / (spectrum.clamp(min=0) + torch.tensor(penalties, device=z.device).double()[:, None])  # [S, D]
    weight = torch.einsum("de,se,ek->sdk", axes, shrinking, moment) / std.double()[:, None]
    return Heads(weight.float(), (offset - torch.einsum("d,sdk->sk", mean.double(), weight)).float())


def _targets(labels: Tensor, num_classes: int) -> Tensor:
    return (F.one_hot(labels, num_classes) if labels.ndim == 1 else labels).float()
