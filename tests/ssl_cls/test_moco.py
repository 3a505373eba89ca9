"""MoCo v2 against closed forms (methods.md section 0), lightly's loss over a memory bank, and the traps of 2.2."""

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls import config, plan
from ssl_cls.clock import Clock
from ssl_cls.data import catalog
from ssl_cls.data.batch import Batch
from ssl_cls.errors import UserError
from ssl_cls.methods.moco import MoCo, MoCoConfig, info_nce
from ssl_cls.rng import DrawKey

CLOCK = Clock(0, 100, 10)


def unit(*shape: int, seed: int = 0) -> Tensor:
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(numbers, dim=-1)


class Flat(nn.Module):
    """A backbone without batch norm whose features differ from image to image from the start."""

    dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, self.dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def flat(**settings: object) -> MoCo:
    torch.manual_seed(0)
    config = MoCoConfig(**{"queue": 64, "projector": (32, 16), "momentum": 0.5, **settings})  # type: ignore[arg-type]
    return config.build(Flat(), None)  # type: ignore[arg-type]


def batch(number: int, n: int = 16) -> Batch:
    """Each image's two views are the same: no augmentation."""
    images = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(number))
    return Batch({"global": [images, images]}, torch.arange(n) + n * number, DrawKey(0, 0), None)


def test_random_features_cost_a_little_more_than_the_log_of_all_candidates() -> None:
    loss, top1 = info_nce(unit(256, 128), unit(256, 128, seed=1), unit(4096, 128, seed=2), 0.2)
    assert math.log(4097) < float(loss) == pytest.approx(8.35, abs=0.15)
    assert float(top1) < 0.02


def test_collapsed_features_cost_the_log_of_all_candidates() -> None:
    one = F.normalize(torch.ones(1, 128, dtype=torch.float64), dim=1)
    loss, _ = info_nce(one.expand(8, -1), one.expand(8, -1), one.expand(4096, -1), 0.2)
    assert float(loss) == pytest.approx(math.log(4097), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.2])
def test_the_positive_counts_once_among_orthogonal_keys(temperature: float) -> None:
    axes = torch.eye(64, dtype=torch.float64)
    loss, top1 = info_nce(axes[:8], axes[:8], axes[8:], temperature)
    assert float(loss) == pytest.approx(math.log(1 + 56 * math.exp(-1 / temperature)), rel=1e-9)
    assert float(top1) == 1


def test_a_perfect_encoder_with_a_random_queue() -> None:  # 2.2: the positive is at column 0, the label is 0
    q = unit(256, 128)
    assert 3.4 < float(info_nce(q, q, unit(4096, 128, seed=1), 0.2)[0]) < 3.6


@pytest.mark.parametrize("n", [1, 7, 32])
@pytest.mark.parametrize("keys", [1, 64, 500])
@pytest.mark.parametrize("dim", [16, 128])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_value_and_gradient_agree_with_lightly(n: int, keys: int, dim: int, temperature: float) -> None:
    q, k, queue = unit(n, dim).requires_grad_(), unit(n, dim, seed=1), unit(keys, dim, seed=2)
    theirs, reference = q.detach().clone().requires_grad_(), NTXentLoss(temperature, memory_bank_size=(keys, dim))
    reference.memory_bank.bank = queue.clone()
    loss, expected = info_nce(q, k, queue, temperature)[0], reference(theirs, k)
    (gradient,) = torch.autograd.grad(loss, q)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    # lightly normalises inside, so its gradient lacks the radial part
    tangential = gradient - (gradient * q.detach()).sum(1, keepdim=True) * q.detach()
    torch.testing.assert_close(tangential, theirs.grad, rtol=1e-6, atol=1e-9)


def test_no_key_is_a_negative_of_its_own_query(take_step) -> None:  # 2.2
    method = flat(symmetric=True)
    for number in range(6):  # the queue has been replaced three times
        now = batch(number)
        embeddings = method.embed(now, CLOCK)
        method.loss(embeddings, now, CLOCK)
        q = F.normalize(embeddings["q"].detach(), dim=2).flatten(0, 1)
        assert float((q @ method.queue.T).max()) < 0.99
        take_step(method, now, CLOCK)


def test_lightly_called_once_a_direction_makes_a_key_the_negative_of_its_own_query() -> None:  # 2.2
    """Why both directions enter the queue together, after both losses."""
    z, reference = unit(16, 16).requires_grad_(), NTXentLoss(0.2, memory_bank_size=(64, 16))
    reference.memory_bank.bank = unit(64, 16, seed=1)
    reference(z, z.detach())
    assert (z @ reference.memory_bank.bank.T).max().item() == pytest.approx(1)


def test_lightlys_memory_bank_drops_keys_where_it_wraps_and_is_in_no_checkpoint() -> None:  # X21
    """Why the queue is a persistent buffer, and its rows are counted modulo its length."""
    reference = NTXentLoss(0.2, memory_bank_size=(24, 16))
    for number in range(2):
        keys = unit(16, 16, seed=number).float()
        reference(keys.clone().requires_grad_(), keys)
    found = (keys @ reference.memory_bank.bank.T).amax(1) > 0.999
    assert found.tolist() == [True] * 8 + [False] * 8
    assert not reference.state_dict()


def test_keys_replace_the_oldest_in_the_order_of_the_batch(take_step) -> None:
    method = flat()
    start = method.queue.clone()
    keys = [take_step(method, batch(number), CLOCK).carry["keys"][:, 0] for number in range(5)]
    assert int(method.pointer) == 16
    torch.testing.assert_close(method.queue, torch.cat((keys[4], keys[1], keys[2], keys[3])))
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(64))
    assert not (method.queue[:, None] == start).all(2).any()  # none is left from the initialisation


@pytest.mark.parametrize("symmetric", [False, True])
def test_micro_batches_fill_the_queue_as_the_whole_batch_does(symmetric: bool) -> None:
    whole, split = flat(symmetric=symmetric), flat(symmetric=symmetric)
    keys = unit(16, 2 if symmetric else 1, 16).float()
    whole.after_step(CLOCK, [{"keys": keys}])
    split.after_step(CLOCK, [{"keys": part} for part in keys.chunk(4)])
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), split.state_dict().values(), strict=True))


def test_queue_and_pointer_are_state_that_a_checkpoint_holds() -> None:  # X21
    assert {"queue", "pointer"} <= flat().state_dict().keys()


def test_keys_come_back_in_the_order_of_their_images(miniature) -> None:
    method, pairs = miniature(MoCoConfig(queue=64, norm_splits=4, projector=(16, 8)))
    images = pairs.views["global"][1]
    with torch.no_grad():
        method.eval()  # without batch statistics the company an image is in does not matter
        torch.testing.assert_close(method._keys(images, pairs), method.key(images))
        method.train()
        assert not torch.allclose(method._keys(images, pairs), method.key(images))  # with them, it is another one
        again = method._keys(images, pairs._replace(key=DrawKey(0, 1)))
        assert not torch.allclose(method._keys(images, pairs), again)  # and another each epoch


def test_query_and_key_of_an_image_are_normalised_with_different_images(miniature) -> None:  # 2.2
    """Changing one image of a query's part must not, as a rule, change that query's key."""
    method, pairs = miniature(MoCoConfig(queue=64, norm_splits=8, projector=(16, 8)))
    images = pairs.views["global"][1]
    with torch.no_grad():
        before = method._keys(images, pairs)
        unmoved = 0
        for part in range(8):
            changed = images.clone()
            changed[2 * part + 1] += 1
            unmoved += int(torch.equal(method._keys(changed, pairs)[2 * part], before[2 * part]))
    assert unmoved >= 6


def test_the_head_has_no_batch_norm_and_the_backbone_only_norms_by_parts(miniature) -> None:  # 2.2
    method, _ = miniature(MoCoConfig(queue=64, norm_splits=4, projector=(16, 8)))
    norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {type(m).__name__ for m in norms} == {"SplitBatchNorm"}
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in method.projector)


@pytest.mark.parametrize(
    ("settings", "batch_size", "ranks", "key", "fix"),
    [
        ({"queue": 4000}, 256, 1, "method.queue", "4096"),
        ({"queue": 256, "symmetric": True}, 256, 1, "method.queue", "512"),
        ({"queue": 128}, 256, 1, "method.queue", "256"),
        ({"queue": 4096, "norm_splits": 3}, 256, 1, "method.norm_splits", "divides"),
        ({"queue": 4096, "norm_splits": 2}, 256, 4, "method.norm_splits", "processes"),
        ({"queue": 4096, "norm_splits": 256}, 256, 1, "method.norm_splits", "2 images"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_a_way_out(
    miniature, settings: dict[str, object], batch_size: int, ranks: int, key: str, fix: str
) -> None:
    method, _ = miniature(MoCoConfig(projector=(16, 8), **settings))
    with pytest.raises(UserError, match=fix) as refused:
        method.check_batch(batch_size, batch_size // ranks, ranks)
    assert key in str(refused.value)


@pytest.mark.parametrize(("micro", "ranks"), [(256, 1), (64, 4), (64, 1), (8, 8)])
def test_batches_that_fit_are_taken(miniature, micro: int, ranks: int) -> None:
    miniature(MoCoConfig(queue=4096, projector=(16, 8)))[0].check_batch(256, micro, ranks)
    flat(norm_splits=7).check_batch(16, 16, 1)  # without batch norm there is nothing to split


def test_a_recipe_whose_batch_does_not_fit_is_refused_when_it_is_planned() -> None:
    text = (
        "{name: m, data: {source: digits}, backbone: {name: resnet_small, args: {channels: [8]}}, optim: {lr: 0.1}, "
        "method: {name: moco, queue: 100}, train: {epochs: 1, batch_size: 32}}"
    )
    recipe = config.parse(config.Recipe, text, "m.yaml")
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    with pytest.raises(UserError, match="96"):
        plan.build_method(recipe, source, plan.make_plan(recipe, source, 1))
