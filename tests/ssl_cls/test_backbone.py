"""Pooling of whatever a timm model gives, with a gradient that is deterministic on every device."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.encoders import own_pooling
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.errors import UserError
from ssl_cls.pooling import means


@pytest.mark.parametrize("shape", [(4, 4), (7, 7), (5, 9), (2, 3)])
@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_means_are_adaptive_pooling(shape: tuple[int, int], side: int, layout: torch.memory_format) -> None:
    x = torch.randn(3, 5, *shape).contiguous(memory_format=layout)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.inference_mode():  # what is made here serves in training too
        means(ours, side)
    pooled, expected = means(ours, side), F.adaptive_avg_pool2d(theirs, side)
    torch.testing.assert_close(pooled, expected, rtol=1e-6, atol=1e-6)
    weights = torch.randn_like(expected)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["avg", "avg2x2", "avg4x4"])
def test_the_gradient_of_pooled_maps_has_their_layout(pooling: str) -> None:
    """ReLU and its like take twenty times as long where gradient and map differ in layout."""
    network = build(BackboneConfig("resnet_small", pooling), 1, 28).to(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []
    maps = network.outputs(torch.randn(3, 1, 28, 28), (-1,))[0]
    assert maps.is_contiguous(memory_format=torch.channels_last)
    features = network.pool(maps)
    maps.register_hook(seen.append)  # after the one that pooling adds
    (features * torch.arange(features.shape[1])).sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    plain = maps.detach().contiguous().requires_grad_()
    (network.pool(plain) * torch.arange(features.shape[1])).sum().backward()
    assert torch.equal(seen[0], plain.grad)


SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
TINY: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (8, 8, 8, 16)},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_mambaout": {},  # channels last
    "swin_tiny_patch4_window7_224": SWIN,  # channels last
    "mobilenetv3_small_050": {},  # its head is wider than its maps
    "test_vit": {},
    "deit_tiny_distilled_patch16_224": {"embed_dim": 24, "depth": 1, "num_heads": 2},  # two tokens before the patches
    "beit_base_patch16_224": {"embed_dim": 24, "depth": 1, "num_heads": 2},  # normed after pooling
    "vit_base_patch16_siglip_224": {"embed_dim": 24, "depth": 1, "num_heads": 2},  # pooled by attention, no token
}
FAMILIES = [
    *("resnet18", "resnext50_32x4d", "seresnet18", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050"),
    *("regnetx_002", "densenet121", "vit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"),
    *("eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "maxvit_rmlp_pico_rw_256"),
    *("coatnet_pico_rw_224", "mambaout_femto", "xcit_nano_12_p16_224", "pvt_v2_b0", "cait_xxs24_224", "mixer_s32_224"),
    *("vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "volo_d1_224", "coat_lite_tiny"),
]


def _natural(model: Any, images: Tensor) -> Tensor:
    """The mean over all places of the last features, worked out from the model's own words on their format."""
    x: Tensor = model.forward_features(images)
    if x.ndim == 4:
        return x.mean((1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else (2, 3))
    tokens = [name for name, _ in model.named_parameters() if name in ("cls_token", "dist_token", "cls_token4")]
    registers = getattr(model, "num_reg_tokens", 0)
    return x[:, len(tokens) + registers :].mean(1)


@torch.inference_mode()
def _agrees(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():  # norms and tokens that are no longer alike
        if value.ndim == 1 or "token" in name:
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    size = model.pretrained_cfg["input_size"][1]
    images = torch.rand(2, 3, size, size, generator=generator)
    backbone = Backbone(model.eval(), "avg")
    found = backbone.features(images)
    assert found.shape == (2, model.num_features)
    torch.testing.assert_close(found, _natural(model, images), rtol=1e-4, atol=1e-5)
    own = Backbone(model, own_pooling(model, 3, size))
    torch.testing.assert_close(own.features(images), model(images), rtol=1e-4, atol=1e-4)
    assert own.dim == own.features(images).shape[1]


@pytest.mark.parametrize("name", TINY)
def test_features_are_the_natural_means_and_timm_s_own_pooling_its_head_s(name: str) -> None:
    torch.manual_seed(0)
    _agrees(timm.create_model(name, num_classes=0, **TINY[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_of_timm_gives_its_natural_features(name: str) -> None:
    torch.manual_seed(0)
    _agrees(timm.create_model(name, num_classes=0))


@pytest.mark.parametrize(
    ("name", "args", "kind"),
    [
        ("resnet18", {"channels": (8, 8, 8, 16)}, "avg"),
        ("test_vit", {}, "cls"),
        ("test_vit", {"global_pool": "avg", "fc_norm": False}, "avg"),
        ("beit_base_patch16_224", TINY["beit_base_patch16_224"], "timm"),
        ("test_convnext", {}, "timm"),
    ],
)
def test_timm_s_pooling_has_our_name_where_there_is_one(name: str, args: dict[str, Any], kind: str) -> None:
    model = timm.create_model(name, num_classes=0, **args)
    for norm in model.modules():  # a fresh norm after pooling changes little
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight)
    assert own_pooling(model, 3, model.pretrained_cfg["input_size"][1]) == kind


def test_features_that_are_neither_maps_nor_tokens_are_refused() -> None:
    class Strange(nn.Module):
        num_features, pretrained_cfg = 6, {"architecture": "strange"}

        def forward_features(self, images: Tensor) -> Any:
            return self.answer(images)

    for answer in (lambda x: [x], lambda x: x.new_zeros(2, 4, 4, 6), lambda x: x.new_zeros(2, 6, 9)):
        model = Strange()
        model.answer = answer
        with pytest.raises(UserError, match="features of strange cannot be taken"):
            Backbone(model, "avg").features(torch.zeros(2, 3, 8, 8))
    model.answer = lambda x: x.new_zeros(2, 1, 6)
    model.num_prefix_tokens = 1  # type: ignore[assignment]
    with pytest.raises(UserError, match="class token alone"):
        Backbone(model, "avg").features(torch.zeros(2, 3, 8, 8))


def test_a_random_swin_has_all_its_channels() -> None:
    network = build(BackboneConfig("swin_tiny_patch4_window7_224", "avg2x2", SWIN), 3, 64)
    with torch.inference_mode():
        assert network.features(torch.rand(2, 3, 64, 64)).shape == (2, 4 * 128) == (2, network.dim)
        stages = network.outputs(torch.rand(2, 3, 64, 64), (-2, -1))
    assert [x.shape[1] for x in stages] == [64, 128]
