"""Any timm model behind one face: pooled features for every architecture, token sequences for vision transformers."""

import difflib
import math
from typing import Any

import timm
import torch
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls.errors import UserError
from ssl_cls.pooling import GRID, TIMM_S, means
from ssl_cls.positions import sincos_positions
from ssl_cls.spec import Count, spec


@spec
class BackboneConfig:
    name: str  # any timm architecture, or resnet_small, resnet18_small
    pooling: str = "avg"  # avg | avgKxK (means of a K x K grid, concatenated) | cls
    args: dict[str, Any] | None = None  # timm's model_args: patch_size, embed_dim, depth, drop_path_rate, ...
    input_size: Count | None = None  # side of the images it is judged on; None: the global views'

    def __post_init__(self) -> None:
        if self.pooling not in ("avg", "cls") and not GRID.fullmatch(self.pooling):
            raise ValueError(f"pooling must be avg, avg2x2 (avg3x3, ...) or cls, not {self.pooling!r}")

    @property
    def label(self) -> str:
        """What tables group rows by: the architecture and its arguments, without pooling."""
        return self.name + "".join(f" {key}={value}" for key, value in sorted((self.args or {}).items()))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class Backbone(nn.Module):
    """`model` is timm's and keeps timm's names, so that its weights load into timm as they are."""

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        if isinstance(model, VisionTransformer):
            model.patch_embed.strict_img_size = False  # local views are smaller
        else:
            model.to(memory_format=torch.channels_last)  # 1.5 times the speed of a convolution on a CPU
        self.model, self.pooling = model, pooling
        by_token = getattr(model, "global_pool", "") == "token"  # those timm has not counted have one, the class token
        self.prefix_tokens = int(getattr(model, "num_prefix_tokens", by_token))
        self._last_axis = getattr(model, "output_fmt", "NCHW") == "NHWC"  # where feature maps have their channels

    @property
    def is_vit(self) -> bool:
        return isinstance(self.model, VisionTransformer)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        size: tuple[int, int] = self.model.patch_embed.grid_size  # type: ignore[union-attr, assignment]
        return size

    @property
    def patch_size(self) -> int:
        return int(self.model.patch_embed.patch_size[0])  # type: ignore[union-attr, index]

    @property
    def channels(self) -> int:
        """Image channels it takes."""
        return int(next(p for p in self.model.parameters() if p.ndim == 4).shape[1])

    @property
    def model_args(self) -> dict[str, Any]:
        """What timm was told besides the architecture's name, to build `model`; image channels included."""
        return {**getattr(self.model, "model_args", {}), "in_chans": self.channels}

    @property
    def width(self) -> int:
        """Channels of the last feature map or token."""
        return int(self.model.num_features)  # type: ignore[arg-type]

    @property
    def dim(self) -> int:
        """Length of `features`."""
        if self.pooling == TIMM_S:
            return int(getattr(self.model, "head_hidden_size", self.width))
        match = GRID.fullmatch(self.pooling)
        return self.width * (int(match.group(1)) ** 2 if match else 1)

    def fix_positions(self) -> None:
        """Sine-cosine positions instead of learned ones; prefix tokens have position 0 (MAE, MoCo v3)."""
        positions = sincos_positions(self.grid, self.width)
        parameter: nn.Parameter = self.model.pos_embed  # type: ignore[assignment]
        with torch.no_grad():
            parameter.zero_()
            parameter[0, -len(positions) :] = positions
        parameter.requires_grad_(False)

    def layers(self) -> dict[str, int]:
        """By parameter name in `model`: 0 for the stem, then a number a block; final norms belong to the last."""
        model: Any = self.model
        return group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[no-any-return]

    def layer_scales(self, decay: float) -> dict[str, float]:
        """Layer-wise learning rates: by parameter name in `model`, relative to a head on top, which has 1.

        `decay` for the last of L blocks, decay^(L+1) for the stem (He et al. 2022, appendix A.2).
        """
        layers = self.layers()
        top = max(layers.values())
        return {name: decay ** (top - layer + 1) for name, layer in layers.items()}

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)

    @property
    def num_layers(self) -> int:
        """Blocks of a vision transformer, stages of a convolutional network: what `features` can take."""
        return len(self.model.feature_info)  # type: ignore[arg-type]

    def features(self, images: Tensor, layers: tuple[int, ...] = (-1,), pooling: str | None = None) -> Tensor:
        """[B, C, H, W] -> [B, D]: the encoder's last features, pooled as the recipe says unless told otherwise.

        Of several layers (-1: the last one, down to -num_layers) they are concatenated. Tokens of earlier blocks go
        through the final norm, as when DINO is probed (Caron et al. 2021, appendix F).
        """
        return torch.cat([self.pool(x, pooling) for x in self.outputs(images, layers)], 1)

    def outputs(self, images: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Feature maps [B, C, h, w] or token sequences of these layers, from one forward pass.

        Raises:
            UserError: the architecture's last features are neither, or of another width than it says.
        """
        model: Any = self.model
        native = not self.is_vit or self._is_native(images)
        found: dict[int, Tensor] = {}
        hooks = [
            model.get_submodule(model.feature_info[layer]["module"]).register_forward_hook(
                lambda module, inputs, output, layer=layer: found.__setitem__(layer, output)
            )
            for layer in layers
            if layer != -1
        ]
        try:
            last = self._channels_first(model.forward_features(images) if native else self.tokens(images))
        finally:
            for hook in hooks:
                hook.remove()
        shape = last.shape if isinstance(last, Tensor) else ()
        if len(shape) not in (3, 4) or shape[1 if len(shape) == 4 else 2] != self.width:
            raise self._refused(f"last features are no maps or tokens of {self.width} channels, but {list(shape)}")
        earlier = {layer: model.norm(x) if x.ndim == 3 else self._channels_first(x) for layer, x in found.items()}
        return [last if layer == -1 else earlier[layer] for layer in layers]

    def _channels_first(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2) if self._last_axis and x.ndim == 4 else x

    def _refused(self, why: str) -> UserError:
        name = str(self.model.pretrained_cfg.get("architecture"))  # type: ignore[union-attr, operator]
        return UserError(f"features of {name} cannot be taken: {why}", name, "use another architecture or pooling")

    def pool(self, x: Tensor, pooling: str | None = None) -> Tensor:
        """A feature map [B, C, h, w] or the whole token sequence [B, P+L, D] -> [B, dim].

        Raises:
            UserError: there are no patches to pool, or they are no square.
        """
        pooling = pooling or self.pooling
        if pooling == TIMM_S:
            native = x.permute(0, 2, 3, 1) if self._last_axis and x.ndim == 4 else x
            return self.model.forward_head(native, pre_logits=True)  # type: ignore[operator, no-any-return]
        if x.ndim == 3:
            if pooling == "cls":
                return x[:, 0]
            x = x[:, self.prefix_tokens :]
            if not x.shape[1]:
                raise self._refused("it gives a class token alone")
            if pooling == "avg":
                return x.mean(1)
            x = x.transpose(1, 2).reshape(len(x), -1, *self._grid_of(x.shape[1]))
        elif x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
            # flattened, the gradient comes back in the other layout, in which the last block takes twenty times as long
            x.register_hook(_channels_last)  # type: ignore[no-untyped-call]
        match = GRID.fullmatch(pooling)
        side = int(match.group(1)) if match else 1
        return (x if x.shape[2:] == (side, side) else means(x, side)).flatten(1)

    def _grid_of(self, patches: int) -> tuple[int, int]:
        grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", (0, 0))
        if math.prod(grid) == patches:
            return grid
        root = math.isqrt(patches)
        if root**2 != patches:
            raise self._refused(f"{patches} patches are no square")
        return root, root

    def tokens(
        self,
        images: Tensor,
        keep: Tensor | None = None,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """[B, C, H, W] -> [B, P+K, D]: prefix tokens, then the patches whose indices are in `keep` (int64 [B, K]).

        Dropped patches never enter the blocks, as in MAE (He et al. 2022, 3). With all of them these are the
        model's own features, bit for bit. Images may be of any size that the patches divide.

        mask: bool [B, L], True where `mask_token` ([1, 1, D]) stands in for the patch: its content is hidden, its
            position, which is added afterwards, is not (iBOT, Zhou et al. 2022, 3.1).
        """
        model: Any = self.model
        x = model.patch_embed(images)
        if mask is not None:
            assert mask_token is not None
            x = torch.where(mask[:, :, None], mask_token.to(x.dtype), x)
        x = model._pos_embed(x) if self._is_native(images) else self._resampled_positions(x)
        if keep is not None:
            patches = x[:, self.prefix_tokens :]
            patches = patches.gather(1, keep[:, :, None].expand(-1, -1, patches.shape[2]))
            x = torch.cat((x[:, : self.prefix_tokens], patches), dim=1)
        x = model.blocks(model.norm_pre(x))
        return model.norm(x)  # type: ignore[no-any-return]

    def _is_native(self, images: Tensor) -> bool:
        model: Any = self.model
        return bool(model.dynamic_img_size) or images.shape[2:] == model.patch_embed.img_size

    def _resampled_positions(self, patches: Tensor) -> Tensor:
        """[B, L, D] of a square image of another size -> [B, P+L, D], prefix tokens and positions added.

        What timm makes of blank patches is its prefix tokens and its positions. These are resampled by a matrix, which
        unlike timm's own way is exact in float64 and has a deterministic gradient on every device.
        """
        model: Any = self.model
        blank = patches.new_zeros(1, math.prod(self.grid), patches.shape[2])
        prefix, positions = model._pos_embed(blank).split((self.prefix_tokens, blank.shape[1]), dim=1)
        side = math.isqrt(patches.shape[1])
        cells = torch.eye(blank.shape[1], dtype=positions.dtype, device=positions.device).view(-1, 1, *self.grid)
        matrix = F.interpolate(cells, (side, side), mode="bicubic", antialias=True).flatten(1).T  # [new L, L]
        return torch.cat((prefix.expand(len(patches), -1, -1), patches + matrix @ positions), dim=1)


def build(config: BackboneConfig, channels: int, size: int) -> Backbone:
    """A backbone with fresh weights from torch's global generator, for `channels` x `size` x `size` images.

    Raises:
        UserError: unknown name (with the nearest ones), arguments timm refuses, a size that the patches do not divide,
            or a pooling that the architecture has no use for.
    """
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        raise UserError(
            f"no backbone named {config.name!r}",
            "backbone.name",
            f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()",
        )
    args = dict(config.args or {})
    try:
        if timm.get_pretrained_cfg(config.name).fixed_input_size:
            args.setdefault("img_size", size)
        model = timm.create_model(config.name, pretrained=False, num_classes=0, in_chans=channels, **args)
    except (TypeError, AssertionError, ValueError, AttributeError, RuntimeError) as error:  # Runtime: an unknown tag
        raise UserError(
            f"timm cannot build {config.name} with {args}: {error}",
            "backbone.args",
            "see the model's arguments in timm",
        ) from error
    model.model_args = args  # exported beside the weights, so that timm can rebuild the model
    backbone = Backbone(model, config.pooling)
    if backbone.is_vit and size % (patch := backbone.patch_size):
        raise UserError(
            f"{size} pixels are not a whole number of {patch}-pixel patches",
            "backbone.args.patch_size",
            f"use a divisor of {size}, or set views size",
        )
    if config.pooling == "cls" and not backbone.prefix_tokens:
        raise UserError(f"{config.name} has no class token", "backbone.pooling", "use avg or avg2x2")
    return backbone
