"""ResNets for small images (28 to 64 pixels): a 3x3 stem and no max-pool. Registered with timm under own names."""

from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models._registry import generate_default_cfgs
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, which pools and projects where shapes differ (He et al. 2019)."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chs)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chs)
        self.shortcut = (
            nn.Identity()
            if in_chs == out_chs and stride == 1
            else nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(in_chs, out_chs, 1, bias=False),
                nn.BatchNorm2d(out_chs),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(y)).add_(self.shortcut(x)))


class SmallResNet(nn.Module):
    """Stem at half resolution, then a residual block a stage: the first keeps the resolution, each later halves it.

    Most of the arithmetic would be in the first stage, whose maps are the largest: hence its few channels.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 96),
        in_chans: int = 3,
        num_classes: int = 0,
        global_pool: str = "avg",
        **_: Any,
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = channels[-1]
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        stages, width = [], channels[0]
        for number, out_chs in enumerate(channels):
            stages.append(_Block(width, out_chs, 1 if number == 0 else 2))
            width = out_chs
        self.stages = nn.Sequential(*stages)
        self.feature_info = [
            {"num_chs": out_chs, "reduction": 2 ** (number + 1), "module": f"stages.{number}"}
            for number, out_chs in enumerate(channels)
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        self.num_classes, self.global_pool = num_classes, global_pool
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^(?:conv1|bn1)\.", "blocks": r"^stages\.(\d+)"}

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, x: Tensor) -> Tensor:
        return self.stages(F.relu_(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3)) if self.global_pool else x
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_CFG = {
    "url": "", "num_classes": 0, "input_size": (3, 32, 32), "pool_size": None,
    "crop_pct": 1.0, "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "first_conv": "conv1", "classifier": "fc",
}  # fmt: skip
default_cfgs = generate_default_cfgs({"resnet_small.untrained": _CFG, "resnet18_small.untrained": _CFG})


@register_model  # type: ignore[untyped-decorator]
def resnet_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.13 M parameters; 14 x 14, 7 x 7 and 4 x 4 maps from 28 pixels. `channels` sets widths and depth."""
    return build_model_with_cfg(SmallResNet, "resnet_small", pretrained, **kwargs)  # type: ignore[no-any-return]


@register_model  # type: ignore[untyped-decorator]
def resnet18_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with the 3x3 stride-1 stem and no max-pool that CIFAR tables use (Chen et al. 2020, B.9)."""

    def small_stem(**model_args: Any) -> ResNet:
        model = ResNet(**model_args)
        model.conv1 = nn.Conv2d(model_args.get("in_chans", 3), 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
        return model

    settings = dict({"block": BasicBlock, "layers": (2, 2, 2, 2)}, **kwargs)
    return build_model_with_cfg(small_stem, "resnet18_small", pretrained, **settings)  # type: ignore[no-any-return]
