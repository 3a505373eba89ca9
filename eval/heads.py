"""Linear classifiers on fixed features: many logistic regressions, solved at once.

There is no learning rate, batch order or seed to choose: the problem is convex, so the answer is its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-6
_HISTORY = 10  # curvature pairs, the usual L-BFGS memory
_HALVINGS = 12  # of a step, after which a problem is at the end of its precision
_CHUNK = 2**22  # logits held at a time: 16 MiB, whatever the number of samples


class Heads(NamedTuple):
    """S linear heads on raw features: logits = features @ weight[s] + bias[s]."""

    weight: Tensor  # float32 [S, D, K]
    bias: Tensor  # float32 [S, K]

    def logits(self, features: Tensor, s: int) -> Tensor:
        """float32 [N, D] -> [N, K], of head `s`."""
        return torch.addmm(self.bias[s], features.to(self.bias.device), self.weight[s])


def fit(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    weight_decay: Tensor,
    sample_weight: Tensor | None = None,
    start: Heads | None = None,
    tolerance: float | Sequence[float] = TOLERANCE,
    max_steps: int = 200,
) -> Heads:
    """S independent problems on the same features, each minimised over (W, b):

        sum_i a_i CE(y_i, z_i W + b) / sum_i a_i  +  weight_decay/2 ||W||^2

    CE is that of a softmax, or, where an image has several labels, the sum over labels of the binary ones.
    z are the features standardised with the (unweighted) mean and standard deviation of `features`; constant
    ones become 0. The bias is free. In scikit-learn's terms C = 1 / (weight_decay * sum_i a_i).

    Args:
        features: float [N, D], any device: everything is computed there. One more copy of it is held.
        labels: int64 [N] in [0, num_classes), or float [N, num_classes] of 0 and 1.
        weight_decay: [S], all > 0.
        sample_weight: a, [S, N], >= 0 (0 leaves a sample out: a fold of cross-validation); None: all 1.
        start: heads to start from, say those of a part of the data; the answer is the same, sooner.
        tolerance: a problem is done when the next step promises less than this share of its loss; one for all, or [S].

    Returns:
        Heads on the raw features. Deterministic for equal device and threads; independent of the other
        problems in the batch to within `tolerance`.

    Method: L-BFGS (Nocedal & Wright 2006, algorithm 7.4) with Armijo backtracking, vectorised over the
    problems, in the principal axes of the features. Böhning's bound (1992), Hessian <= cov(z)/2 +
    weight_decay, is diagonal there and is its initial metric, which takes the features' conditioning out of
    the iteration count.
    """
    device, n = features.device, len(features)
    decay = weight_decay.to(device, torch.float32)
    weights = torch.ones(len(decay), n, device=device)
    if sample_weight is not None:
        weights = sample_weight.to(device, torch.float32)
    weights = weights / weights.sum(1, keepdim=True)
    mean, std = moments(features)
    z = (features - mean) / std
    axes = torch.eye(z.shape[1], device=device)
    if n < len(axes):  # the solution is in the span of the samples
        axes = torch.linalg.qr(z.T).Q
        z = z @ axes
    spectrum, rotation = torch.linalg.eigh((z.T @ z).double() / n)
    z = torch.cat((z @ rotation.float(), torch.ones(n, 1, device=device)), 1)  # the last axis carries the bias
    axes = axes.double() @ rotation

    penalty = decay[:, None].repeat(1, z.shape[1])  # [S, R+1]
    penalty[:, -1] = 0
    curvature = torch.cat((spectrum.clamp(min=0), spectrum.new_ones(1))).float()
    bound = n * weights.amax(1, keepdim=True) / 2  # Böhning's 1/2; a sample counts at most as the heaviest
    metric = 1 / (bound * curvature + penalty).clamp(min=1e-8)

    first = torch.zeros(len(decay), num_classes, z.shape[1], device=device)
    if start is not None:
        before = start.weight.to(device, torch.float64)
        first[:, :, :-1] = torch.einsum("dr,sdk->skr", axes, before * std.double()[:, None]).float()
        first[:, :, -1] = (start.bias.to(device) + torch.einsum("d,sdk->sk", mean.double(), before)).float()
    ends = torch.as_tensor(tolerance, device=device).expand(len(decay))
    solution = _lbfgs(z, labels.to(device), weights, penalty[:, None], metric[:, None], first, ends, max_steps).double()

    weight = torch.einsum("dr,skr->sdk", axes, solution[:, :, :-1]) / std.double()[:, None]
    bias = solution[:, :, -1] - torch.einsum("d,sdk->sk", mean.double(), weight)
    return Heads(weight.float(), bias.float())


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D]; 1 where a feature is constant to float32 precision."""
    mean = features.mean(0, dtype=torch.float64)
    variance = torch.zeros_like(mean)
    for part in torch.split(features, max(1, _CHUNK // features.shape[1])):
        variance += (part - mean).square().sum(0)
    std = (variance / len(features)).sqrt()
    return mean.float(), torch.where(std > 1e-6 * mean.abs(), std, 1.0).float()


def _loss(w: Tensor, z: Tensor, labels: Tensor, weights: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [S] in float64 and its gradient [S, K, R], over chunks of samples."""
    heads, classes, dim = w.shape
    loss = (penalty * w.square()).sum((1, 2)).double() / 2
    gradient = penalty * w
    size = max(1, _CHUNK // (heads * classes))
    for x, y, a in zip(torch.split(z, size), torch.split(labels, size), torch.split(weights, size, 1), strict=True):
        # samples last: a softmax over a short middle axis is five times as fast as one over a short last axis
        logits = (w.view(-1, dim) @ x.T).view(heads, classes, -1)
        nats, error = _softmax_loss(logits, y) if y.ndim == 1 else _sigmoid_loss(logits, y)
        loss += (nats.double() * a).sum(1)
        error *= a[:, None]
        gradient.view(-1, dim).addmm_(error.view(heads * classes, -1), x)
    return loss, gradient


def _softmax_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [S, N] of logits [S, K, N], and its gradient [S, K, N]."""
    logp, target = logits.log_softmax(1), labels.expand(len(logits), 1, -1)
    nats = -logp.gather(1, target)[:, 0]
    return nats, logp.exp_().scatter_add_(1, target, logp.new_full((), -1.0).expand(target.shape))


def _sigmoid_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over labels of the binary cross-entropies [S, N] of logits [S, K, N], and its gradient [S, K, N]."""
    target = labels.T.to(logits.dtype)
    nats = (torch.nn.functional.softplus(logits) - logits * target).sum(1)
    return nats, logits.sigmoid() - target


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))  # type: ignore[no-any-return]


def _lbfgs(
    z: Tensor,
    labels: Tensor,
    weights: Tensor,
    penalty: Tensor,
    metric: Tensor,
    w: Tensor,
    tolerance: Tensor,
    max_steps: int,
) -> Tensor:
    """Minimise from `w` [S, K, R]. Problems that are done leave the batch: the slow ones run alone."""
    answer = w.clone()
    alive = torch.arange(len(w), device=w.device)
    stuck = torch.zeros_like(alive, dtype=torch.bool)
    loss, gradient = _loss(w, z, labels, weights, penalty)
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(max_steps):
        direction = _direction(gradient, pairs, metric)
        slope = _dot(gradient, direction)
        lost = slope >= 0  # rounding spoilt the curvature: the metric alone always descends
        if lost.any():
            direction[lost] = -(metric * gradient)[lost]
            slope = _dot(gradient, direction)
        going = (-slope > tolerance * loss) & ~stuck
        if not going.all():
            answer[alive] = w
            if not going.any():
                return answer
            alive, loss, slope, weights, w, gradient, direction, penalty, metric, tolerance = (
                t[going] for t in (alive, loss, slope, weights, w, gradient, direction, penalty, metric, tolerance)
            )
            pairs = [(s[going], y[going]) for s, y in pairs]
        length = torch.ones_like(slope)
        for _ in range(_HALVINGS):
            trial = w + length[:, None, None] * direction
            trial_loss, trial_gradient = _loss(trial, z, labels, weights, penalty)
            # by as much as float32 is uncertain the loss may rise
            stuck = trial_loss > loss * (1 + 1e-7) + 1e-4 * length * slope
            if not stuck.any():
                break
            length = torch.where(stuck, length / 2, length)
        pairs = [*pairs[1 - _HISTORY :], (trial - w, trial_gradient - gradient)]
        w, loss, gradient = torch.where(stuck[:, None, None], w, trial), trial_loss, trial_gradient
    answer[alive] = w
    return answer


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]], metric: Tensor) -> Tensor:
    """- (inverse Hessian estimate) @ gradient: the two-loop recursion over pairs of positive curvature."""
    q, trail = -gradient, []
    for s, y in reversed(pairs):
        sy = _dot(s, y)
        rho = torch.where(sy > 0, 1 / sy, 0.0)
        alpha = rho * _dot(s, q)
        q.addcmul_(alpha[:, None, None], y, value=-1)
        trail.append((s, y, rho, alpha))
    r = q.mul_(metric)
    if pairs:
        s, y = pairs[-1]
        scale = _dot(s, y) / _dot(y, metric * y).clamp(min=1e-30)
        r.mul_(torch.where(scale > 0, scale, 1.0)[:, None, None])
    for s, y, rho, alpha in reversed(trail):
        r.addcmul_((alpha - rho * _dot(y, r))[:, None, None], s)
    return r
