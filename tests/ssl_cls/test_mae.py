"""MAE against closed forms (methods.md section 0) and every trap of 2.12."""

import pytest
import torch
from lightly.models import utils as lightly_utils
from torch import Tensor

from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.errors import UserError
from ssl_cls.methods.mae import MAE, MAEConfig, patchify, random_masking, unpatchify
from ssl_cls.positions import sincos_positions
from ssl_cls.rng import DrawKey

CLOCK = Clock(0, 10, 10)


def tiny(channels: int = 1, size: int = 28, patch: int = 4, **config: object) -> MAE:
    torch.manual_seed(0)
    args = {"patch_size": patch, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = build(BackboneConfig("vit_tiny_patch16_224", "avg", args), channels, size)
    return MAEConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2, **config).build(backbone, None)  # type: ignore[arg-type]


def batch(images: Tensor, epoch: int = 0) -> Batch:
    return Batch({"global": [images]}, torch.arange(len(images)), DrawKey(0, epoch), None)


def images(channels: int = 1, size: int = 28, n: int = 6) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("channels", "size", "patch", "value"),
    [(3, 64, 16, 0.99870), (3, 32, 4, 0.97917), (3, 16, 2, 0.91667), (1, 28, 4, 0.9375)],
)
def test_predicting_zero_costs_the_unbiased_variance(channels: int, size: int, patch: int, value: float) -> None:
    method = tiny(channels, size, patch)
    x = images(channels, size)
    embeddings = method.embed(batch(x), CLOCK)
    embeddings["prediction"] = torch.zeros_like(embeddings["prediction"])
    assert float(method.loss(embeddings, batch(x), CLOCK).loss.detach()) == pytest.approx(value, abs=1e-4)


def test_flat_patches_have_zero_targets() -> None:
    method = tiny()
    x = images()
    x[:, :, :14] = 0.25  # half of the rows: 3.5 of 7 patch rows, so 3 flat ones
    assert torch.equal(method.target(x)[:, :21].abs().amax(), torch.zeros(()))
    assert method.target(x)[:, 28:].abs().amin(-1).max() > 0
    # Section 0: predicting zero then costs (P - 1) / P, times the part of the masked patches that is not flat.
    embeddings = method.embed(batch(x), CLOCK)
    embeddings["prediction"] = torch.zeros_like(embeddings["prediction"])
    flat = embeddings["mask"][:, :21].sum() / embeddings["mask"].sum()
    assert 0.3 < float(flat) < 0.6
    loss = method.loss(embeddings, batch(x), CLOCK).loss
    assert loss.item() == pytest.approx(0.9375 * (1 - float(flat)), abs=1e-4)


def test_visible_patches_do_not_enter_the_loss() -> None:
    method = tiny()
    embeddings = method.embed(batch(images()), CLOCK)
    before = method.loss(embeddings, batch(images()), CLOCK).loss
    visible = (1 - embeddings["mask"])[:, :, None]
    embeddings["prediction"] = embeddings["prediction"] + 1000 * visible
    assert torch.equal(before, method.loss(embeddings, batch(images()), CLOCK).loss)


def test_each_sample_has_its_own_mask_of_exactly_the_ratio() -> None:
    keep, restore, mask = random_masking(DrawKey(0, 0), torch.arange(64), 49, tiny().num_masked)
    assert torch.equal(mask.sum(1), torch.full((64,), 37.0))
    assert keep.shape == (64, 12)
    class_and_kept = lightly_utils.random_token_mask((2, 1 + 49), 0.75)[0]
    assert keep.shape[1] == class_and_kept.shape[1] - 1
    assert len({tuple(row) for row in keep.sort(1).values.tolist()}) == 64
    assert torch.equal(mask.gather(1, keep), torch.zeros(64, 12))
    assert torch.equal(restore.gather(1, keep), torch.arange(12).expand(64, 12))  # each at its place among the visible
    assert torch.equal(restore.sort(1).values, torch.arange(49).expand(64, 49))


def test_masks_depend_on_sample_and_epoch_and_on_nothing_else() -> None:
    index = torch.arange(100)
    first = random_masking(DrawKey(0, 0), index, 49, 37)[0]
    assert torch.equal(first[[5, 77]], random_masking(DrawKey(0, 0), torch.tensor([5, 77]), 49, 37)[0])
    assert not torch.equal(first, random_masking(DrawKey(0, 1), index, 49, 37)[0])
    assert not torch.equal(first, random_masking(DrawKey(1, 0), index, 49, 37)[0])
    visible = 1 - random_masking(DrawKey(0, 0), torch.arange(20_000), 49, 37)[2]
    assert visible.mean(0).sub(12 / 49).abs().max() < 4 * (12 / 49 * 37 / 49 / 20_000) ** 0.5


def test_masked_patches_never_enter_the_encoder() -> None:
    method, lengths = tiny(), []
    method.backbone.model.blocks[0].register_forward_hook(lambda _m, args, _o: lengths.append(args[0].shape[1]))  # type: ignore[union-attr, index, operator]
    x = images()
    embeddings = method.embed(batch(x), CLOCK)
    assert lengths == [int(49 * 0.25) + 1]
    hidden = unpatchify(embeddings["mask"][:, :, None].expand(-1, -1, 16), (7, 7), 4) > 0
    changed = method.embed(batch(torch.where(hidden, torch.randn_like(x), x)), CLOCK)
    assert torch.equal(embeddings["visible"], changed["visible"])


def test_nothing_masked_is_the_plain_transformer_bit_for_bit() -> None:
    method = tiny().eval()
    x = images()
    every = torch.arange(49).expand(len(x), 49)
    assert torch.equal(method.backbone.tokens(x, every), method.backbone.model.forward_features(x))  # type: ignore[operator]


def test_a_patch_keeps_its_own_position_wherever_it_lands() -> None:
    """Attention sees a set: permuting `keep` permutes the output, so positions must have been added before."""
    backbone = tiny().backbone.eval()
    keep = torch.tensor([[3, 17, 40, 8]]).expand(6, -1)
    shuffled = keep[:, [2, 0, 3, 1]]
    out, permuted = backbone.tokens(images(), keep), backbone.tokens(images(), shuffled)
    torch.testing.assert_close(out[:, 1:][:, [2, 0, 3, 1]], permuted[:, 1:])


def test_positions_are_fixed_sines_and_cosines_as_lightly_computes_them() -> None:
    method = tiny()
    positions = method.backbone.model.pos_embed
    assert not positions.requires_grad
    assert "backbone.model.pos_embed" not in [name for group in method.param_groups() for name in group.params]
    assert torch.equal(positions[0, 0], torch.zeros(32))  # type: ignore[index]
    theirs = torch.as_tensor(lightly_utils.get_2d_sincos_pos_embed(embed_dim=32, grid_size=7, cls_token=False)).float()
    mine = sincos_positions((7, 7), 32)
    halves = torch.cat((theirs[:, 16:], theirs[:, :16]), 1)  # lightly puts the column first
    torch.testing.assert_close(mine, halves, rtol=0, atol=1e-6)


def test_patchify_is_undone_by_unpatchify_and_orders_like_the_patch_projection() -> None:
    x = images(3, 32)
    assert torch.equal(unpatchify(patchify(x, 4), (8, 8), 4), x)
    method = tiny(3, 32, 4)
    projection = method.backbone.model.patch_embed.proj  # type: ignore[union-attr]
    weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(
        patchify(x, 4) @ weight.T + projection.bias, method.backbone.model.patch_embed(x), rtol=1e-4, atol=1e-5
    )  # type: ignore[union-attr, operator]


def test_initialisation_is_xavier_with_the_patch_projection_seen_as_a_matrix() -> None:
    method = tiny(3, 32, 4)
    weight = method.backbone.model.patch_embed.proj.weight.flatten(1)  # type: ignore[union-attr, operator]
    bound = (6 / (weight.shape[0] + weight.shape[1])) ** 0.5
    assert weight.abs().max() <= bound
    assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_visible_patches_are_shown_as_they_were() -> None:
    method, x = tiny().eval(), images()
    seen, filled = method.reconstruct(batch(x), CLOCK)
    visible = seen != 0
    assert torch.equal(seen[visible], x[visible])
    assert torch.equal(filled[visible], x[visible])


@pytest.mark.parametrize(("channels", "size", "patch"), [(1, 28, 4), (3, 32, 4), (3, 64, 16)])
@pytest.mark.parametrize("norm_pixels", [True, False])
def test_value_and_gradient_agree_with_lightly(channels: int, size: int, patch: int, norm_pixels: bool) -> None:
    method, x = tiny(channels, size, patch, norm_pixels=norm_pixels), images(channels, size).double()
    _, restore, mask = random_masking(DrawKey(0, 0), torch.arange(6), method.num_patches, method.num_masked)
    shape = (6, method.num_patches, patch**2 * channels)
    ours = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    embeddings = {"visible": ours[:, 0], "prediction": ours, "mask": mask.double()}
    loss = method.loss(embeddings, batch(x), CLOCK).loss
    masked = restore.argsort(1)[:, method.num_patches - method.num_masked :]
    target = lightly_utils.get_at_index(lightly_utils.patchify(x, patch), masked)
    target = lightly_utils.normalize_mean_var(target) if norm_pixels else target
    reference = torch.nn.MSELoss()(lightly_utils.get_at_index(theirs, masked), target)
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("ratio", [0.95, 1.0, 0.0])
def test_too_few_patches_are_refused(ratio: float) -> None:
    with pytest.raises(UserError, match="keeps"):
        tiny(mask_ratio=ratio)


def test_a_convolutional_backbone_is_refused_by_name() -> None:
    with pytest.raises(UserError) as error:
        MAEConfig().build(build(BackboneConfig("resnet_small"), 1, 28), None)
    assert error.value.where == "backbone.name"


def test_tokens_start_at_a_fiftieth() -> None:
    """timm's class token starts at 1e-6."""
    method = tiny()
    for token in (method.mask_token, method.backbone.model.cls_token):
        assert 0.01 < float(token.std()) < 0.03
