"""DINOv2's masks, iBOT and KoLeo against closed forms (methods.md section 0), lightly, and the traps of 2.11.

What it shares with DINO is in test_dino.
"""

import math

import pytest
import torch
from lightly.loss import IBOTPatchLoss, KoLeoLoss
from torch import Tensor
from torch.nn import functional as F

from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.clock import Clock
from ssl_cls.errors import UserError
from ssl_cls.methods.dinov2 import DINOv2Config, block_masks, koleo
from ssl_cls.methods.prototypes import HeadConfig, TeacherTemperature
from ssl_cls.rng import DrawKey

CLOCK = Clock(0, 10, 10)
HEAD = HeadConfig(hidden_dim=16, bottleneck_dim=8, prototypes=32)
CONFIG = DINOv2Config(head=HEAD)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_koleo_of_orthonormal_rows_and_of_equal_rows() -> None:
    assert float(koleo(torch.eye(16, dtype=torch.float64))) == pytest.approx(-math.log(math.sqrt(2)))
    assert float(koleo(torch.ones(4, 8, dtype=torch.float64))) == pytest.approx(17.08, abs=0.01)


@pytest.mark.parametrize(("n", "dim"), [(2, 3), (16, 8), (64, 128)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_koleo_agrees_with_lightly(n: int, dim: int, scale: float) -> None:
    ours = (scale * noise(n, dim)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    loss, reference = koleo(ours), KoLeoLoss()(theirs)
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12 / scale)


def test_koleo_is_of_each_global_view_by_itself_and_of_the_encoders_features(miniature_vit) -> None:
    """Of both together, the nearest neighbour of a view would be the other view of the same image."""
    method, batch = miniature_vit(CONFIG)
    embeddings = method.embed(batch, CLOCK)
    h = noise(8, 1, 32).float().expand(-1, 2, -1)  # two identical views
    spread = float(method.loss({**embeddings, "h": h}, batch, CLOCK).logs["koleo"])
    assert spread == pytest.approx(2 * float(koleo(h[:, 0])), rel=1e-5)
    assert spread < 2
    assert float(koleo(h.flatten(0, 1))) > 14  # a distance of 0


@pytest.mark.parametrize(("n", "k"), [(3, 8), (16, 64)])
@pytest.mark.parametrize(
    "temperature", [float(torch.tensor(t)) for t in (0.04, 0.07)]
)  # in float32, as lightly keeps it
def test_the_patch_loss_and_its_centre_agree_with_lightly(miniature_vit, n: int, k: int, temperature: float) -> None:
    head = HeadConfig(16, 8, k)
    schedule = TeacherTemperature(end=temperature)
    method, batch = miniature_vit(DINOv2Config(head=head, koleo_weight=0.0, teacher_temperature=schedule))
    method.double()
    masks = block_masks(DrawKey(0, 0), torch.arange(n), (7, 7), (0.1, 0.5)).flatten(0, 1)  # [2N, L]
    count = masks.sum(1)
    weight = (1.0 / count.clamp(min=1))[:, None].expand_as(masks)[masks].double()
    theirs = IBOTPatchLoss(k, teacher_temp=temperature).double()
    fixed = {"h": noise(n, 2, 32), "teacher_h": noise(n, 2, 32), "teacher": noise(n, 2, k), "student": noise(n, 2, k)}
    for step in range(2):
        student = noise(len(weight), k, seed=step).requires_grad_()
        teacher = noise(len(weight), k, seed=10 + step)
        out = method.loss(
            {**fixed, "student_patches": student, "teacher_patches": teacher, "weight": weight}, batch, CLOCK
        )
        (gradient,) = torch.autograd.grad(out.loss, student)
        reference = theirs(teacher, student, masks.view(2 * n, 7, 7))
        (expected,) = torch.autograd.grad(reference, student)
        assert float(out.logs["patch_loss"]) == pytest.approx(float(reference), rel=1e-6)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
        method.after_step(CLOCK, [out.carry])
        torch.testing.assert_close(method.patch_centring.centre, theirs.center.value.flatten())


def test_an_image_counts_alike_however_much_of_it_is_hidden(miniature_vit) -> None:
    method, batch = miniature_vit(CONFIG)
    embeddings = method.embed(batch, CLOCK)
    masks = block_masks(batch.key, batch.index, (7, 7), CONFIG.mask_ratio)
    counts = masks.sum((1, 2)).tolist()
    assert len(set(counts)) > 1
    torch.testing.assert_close(torch.stack([w.sum() for w in embeddings["weight"].split(counts)]), torch.ones(8))


def test_the_mean_is_over_whole_crops_too(miniature_vit) -> None:
    """One crop of each image is whole, so with a uniform teacher the patch loss is half of ln K."""
    method, batch = miniature_vit(CONFIG)
    embeddings = method.embed(batch, CLOCK)
    embeddings["teacher_patches"] = torch.zeros_like(embeddings["teacher_patches"])
    embeddings["student_patches"] = torch.zeros_like(embeddings["student_patches"])
    out = method.loss(embeddings, batch, CLOCK)
    assert float(out.logs["patch_loss"]) == pytest.approx(math.log(32) / 2, rel=1e-5)


def test_one_crop_of_each_image_is_masked_by_a_block_of_a_drawn_size() -> None:
    n = 5_000
    masks = block_masks(DrawKey(0, 0), torch.arange(n), (7, 7), (0.1, 0.5))
    count = masks.sum(2)
    assert bool(((count == 0).sum(1) == 1).all())
    masked = count.amax(1)
    assert (int(masked.min()), int(masked.max())) == (4, 24)  # whole patches of 49, prefix tokens not counted
    assert abs(float((masked.double().mean() - 14) / (masked.double().std() / n**0.5))) < 4
    assert abs(float((count[:, 0] > 0).double().mean()) - 0.5) < 4 * 0.5 / n**0.5
    assert len({tuple(row.tolist()) for row in masks.any(1)[:200]}) > 190
    block = masks.any(1).view(n, 7, 7)
    rows, columns = block.any(2).sum(1), block.any(1).sum(1)
    assert float((masked / (rows * columns)).mean()) > 0.7  # most of their bounding rectangle: blocks, not dust
    assert bool((masks.any(1).double().mean(0) > 0.1).all())  # every patch has its turn


def test_masks_depend_on_sample_seed_and_epoch_and_on_nothing_else() -> None:
    def draw(key: DrawKey, *index: int) -> Tensor:
        return block_masks(key, torch.tensor(index), (7, 7), (0.1, 0.5))

    first = draw(DrawKey(0, 0), *range(100))
    assert torch.equal(first[[5, 77]], draw(DrawKey(0, 0), 5, 77))
    assert not torch.equal(first, draw(DrawKey(0, 1), *range(100)))
    assert not torch.equal(first, draw(DrawKey(1, 0), *range(100)))


def test_the_student_cannot_see_what_is_hidden_and_the_teacher_can(miniature_vit) -> None:
    method, batch = miniature_vit(CONFIG)
    masks = block_masks(batch.key, batch.index, (7, 7), CONFIG.mask_ratio)
    pixels = F.interpolate(masks.view(8, 2, 7, 7).float(), (28, 28)).unsqueeze(2) > 0  # [N, 2, 1, 28, 28]
    changed = [
        torch.where(pixels[:, number], torch.randn_like(view), view)
        for number, view in enumerate(batch.views["global"])
    ]
    before, after = (method.embed(b, CLOCK) for b in (batch, batch._replace(views={**batch.views, "global": changed})))
    for name in ("student", "student_patches", "h"):
        assert torch.equal(before[name], after[name]), name
    for name in ("teacher", "teacher_patches"):
        assert not torch.equal(before[name], after[name]), name


def test_the_teachers_output_does_not_depend_on_the_masks(miniature_vit) -> None:
    method, batch = miniature_vit(CONFIG)
    first, second = (method.embed(batch._replace(key=DrawKey(0, epoch)), CLOCK) for epoch in (0, 1))
    assert torch.equal(first["teacher"], second["teacher"])
    assert not torch.equal(first["student"], second["student"])


def test_a_masked_patch_is_the_mask_token_at_its_own_position(miniature_vit) -> None:
    method, batch = miniature_vit(CONFIG)
    with torch.no_grad():
        method.mask_token.normal_()
    entered = []
    model = method.backbone.model
    model.blocks[0].register_forward_hook(lambda _m, args, _o: entered.append(args[0].detach()))
    mask = block_masks(batch.key, batch.index, (7, 7), CONFIG.mask_ratio)[:, 0]
    view = batch.views["global"][0]
    method.backbone.tokens(view, mask=mask, mask_token=method.mask_token)
    patches = entered[0][:, 1:]
    hidden = (method.mask_token + model.pos_embed[:, 1:]).expand(8, -1, -1)
    shown = model.patch_embed(view) + model.pos_embed[:, 1:]
    torch.testing.assert_close(patches, torch.where(mask[:, :, None], hidden, shown).detach())


def test_student_and_teacher_patches_are_those_of_the_same_places(miniature_vit) -> None:
    """With nothing between them but the mask, the teacher's patches are its tokens where the mask is."""
    method, batch = miniature_vit(CONFIG)
    out = method.embed(batch, CLOCK)
    masks = block_masks(batch.key, batch.index, (7, 7), CONFIG.mask_ratio)
    tokens = [method.teacher_backbone.tokens(view)[:, 1:] for view in batch.views["global"]]
    expected = torch.cat([tokens[v][n][masks[n, v]] for n in range(8) for v in range(2)])
    torch.testing.assert_close(out["teacher_patches"], method.teacher_head(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_centres_are_kept_only_where_they_are_used(miniature_vit, take_step, centering: str) -> None:
    method, batch = miniature_vit(DINOv2Config(head=HEAD, centering=centering))  # type: ignore[arg-type]
    assert float(take_step(method, batch, CLOCK).loss) > 0
    centres = [name for name in method.state_dict() if name.endswith(".centre")]
    assert centres == (["centring.centre", "patch_centring.centre"] if centering == "softmax" else [])


def test_patches_may_have_a_head_of_their_own_which_the_teacher_follows(miniature_vit, take_step) -> None:
    own = HeadConfig(16, 8, 24, norm_last_layer=False)
    config = DINOv2Config(head=HEAD, patch_head=own, momentum=0.0, freeze_prototypes_epochs=0)
    method, batch = miniature_vit(config, "avg2x2")
    assert method.embed(batch, CLOCK)["student_patches"].shape[1] == 24
    states = method.patch_head.state_dict(), method.teacher_patch_head.state_dict()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*(s.values() for s in states), strict=True))  # X7
    take_step(method, batch, CLOCK)
    assert all(p.grad is None for p in method.parameters())
    for ours, theirs in zip(method.patch_head.parameters(), method.teacher_patch_head.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    shared, _ = miniature_vit(CONFIG)
    assert shared.patch_head is None
    assert not any("patch_head" in name for name in shared.state_dict())


def test_deeper_layers_learn_more_slowly_and_the_patch_projection_least(miniature_vit) -> None:
    method, _ = miniature_vit(DINOv2Config(head=HEAD, layer_decay=0.5, patch_embed_lr=0.2), depth=3)
    scale = {name: group.lr_scale for group in method.param_groups() for name in group.params}
    blocks = [scale[f"backbone.model.blocks.{number}.attn.qkv.weight"] for number in range(3)]
    assert blocks[0] == blocks[1] / 2 == blocks[2] / 4
    assert scale["head.mlp.0.weight"] == scale["head.directions"] == 1
    stem = scale["backbone.model.pos_embed"]
    assert stem < blocks[0]
    assert scale["backbone.model.patch_embed.proj.weight"] == pytest.approx(0.2 * stem)
    assert scale["mask_token"] == stem
    assert sorted(scale) == sorted(method.trainable())


def test_a_convolutional_backbone_is_refused_by_name() -> None:
    with pytest.raises(UserError) as error:
        DINOv2Config().build(build(BackboneConfig("resnet_small"), 1, 28), None)
    assert error.value.where == "backbone.name"


@pytest.mark.parametrize("ratio", [(0.0, 0.5), (0.01, 0.5), (0.5, 1.0)])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(miniature_vit, ratio: tuple[float, float]) -> None:
    with pytest.raises(UserError) as error:
        miniature_vit(DINOv2Config(head=HEAD, mask_ratio=ratio))
    assert error.value.where == "method.mask_ratio"


def test_a_head_shared_by_features_of_two_widths_is_refused(miniature_vit) -> None:
    with pytest.raises(UserError, match="128 features, patches 32"):
        miniature_vit(CONFIG, "avg2x2")
