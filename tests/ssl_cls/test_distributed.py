"""Batch norm over the global batch and by parts of it, on one process; tests/dist has two."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from ssl_cls import distributed
from ssl_cls.distributed import SplitBatchNorm, SyncBatchNorm


def images(n: int = 64) -> Tensor:
    shift = torch.arange(n)[:, None, None, None] / n  # so that every part has another mean
    return torch.randn(n, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 2 + shift


def network() -> nn.Sequential:
    torch.manual_seed(1)
    made = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Sequential(BatchNormAct2d(4, act_layer=nn.ReLU)))
    nn.init.normal_(made[1].weight)
    nn.init.normal_(made[1].bias)
    return made


def test_half_precision_is_normalised_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast a convolution hands over bfloat16; two ranks with the same batch are as one with it."""
    monkeypatch.setattr(distributed, "num_ranks", lambda: 2)
    monkeypatch.setattr(distributed, "mean", lambda x: x)
    ours, plain = SyncBatchNorm.convert(nn.Sequential(nn.BatchNorm2d(4))), nn.BatchNorm2d(4, momentum=0.1)
    x = images() + 30
    y = ours(x.bfloat16())
    expected = plain(x.bfloat16().float())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=2e-2, rtol=0)
    torch.testing.assert_close(ours[0].running_mean, plain.running_mean)
    torch.testing.assert_close(ours[0].running_var, plain.running_var, rtol=1e-2, atol=0)  # n / (n - 1): of both ranks


def test_a_sample_depends_on_its_own_part_of_the_batch_alone() -> None:  # 2.2
    norm = SplitBatchNorm.convert(nn.Sequential(nn.BatchNorm2d(4)), num_splits=8)
    x = images()
    before = norm(x)[3]
    elsewhere, within = x.clone(), x.clone()
    elsewhere[8:] += torch.randn(56, 4, 3, 3)
    within[7] += 1
    assert torch.equal(norm(elsewhere)[3], before)
    assert not torch.allclose(norm(within)[3], before)


@pytest.mark.parametrize("splits", [1, 4])
def test_each_part_is_normalised_as_torch_would_and_running_statistics_are_their_means(splits: int) -> None:
    x, plain = images(), [nn.BatchNorm2d(4) for _ in range(splits)]
    norm = SplitBatchNorm.convert(nn.Sequential(nn.BatchNorm2d(4)), num_splits=splits)
    torch.testing.assert_close(
        norm(x), torch.cat([one(part) for one, part in zip(plain, x.chunk(splits), strict=True)])
    )
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(norm[0], name), torch.stack([getattr(one, name) for one in plain]).mean(0))
    assert int(norm[0].num_batches_tracked) == 1
    plain[0].load_state_dict(norm[0].state_dict())
    torch.testing.assert_close(norm.eval()(x), plain[0].eval()(x))


@pytest.mark.parametrize("ours", [SyncBatchNorm, SplitBatchNorm])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_converted_keeps_its_names_its_weights_and_its_activation(ours: type, training: bool) -> None:
    reference = network().train(training)
    converted = ours.convert(network().train(training), **({"num_splits": 1} if ours is SplitBatchNorm else {}))
    torch.testing.assert_close(converted(images()), reference(images()))
    assert converted(images()).min() == 0  # timm's norm with an activation of its own
    assert converted.state_dict().keys() == reference.state_dict().keys()


def test_a_norm_by_parts_is_not_synchronised() -> None:  # 2.2: MoCo, over many ranks
    converted = SyncBatchNorm.convert(SplitBatchNorm.convert(network(), num_splits=2))
    norms = [type(m) for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms == [SplitBatchNorm, SplitBatchNorm]
