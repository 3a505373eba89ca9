"""MAE (He et al. 2022): encode a quarter of the patches, decode the pixels of the rest."""

from typing import Literal

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_cls.augment import presets
from ssl_cls.augment.view import View, expand
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.errors import UserError
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.positions import sincos_positions
from ssl_cls.rng import DrawKey, uniform
from ssl_cls.spec import Count, Fraction, spec

_MASK_DRAW = 64  # the `view` number of rng.uniform that masks are drawn under: above any real view's


@spec
class MAEConfig:
    name: Literal["mae"] = "mae"
    mask_ratio: Fraction = 0.75
    decoder_dim: Count = 64
    decoder_depth: Count = 2
    decoder_heads: Count = 4
    norm_pixels: bool = True  # predict each patch standardised by its own mean and variance (section 3)

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.mae(size, channels)

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return None if len(expand(views)) == 1 and views[0].kind == "global" else "MAE takes exactly one global view"

    def build(self, backbone: Backbone, num_classes: int | None) -> "MAE":
        if not backbone.is_vit:
            raise UserError(
                "MAE drops patches, which only a vision transformer allows",
                "backbone.name",
                "use a vit, as recipes/mae_vit.yaml does",
            )
        patches = backbone.grid[0] * backbone.grid[1]
        kept = int(patches * (1 - self.mask_ratio))  # as the authors round
        if not 4 <= kept < patches:
            raise UserError(
                f"mask_ratio {self.mask_ratio} keeps {kept} of {patches} patches; MAE needs 4 kept and one masked",
                "method.mask_ratio",
                "lower mask_ratio, use smaller patches, or larger views",
            )
        return MAE(self, backbone)


def patchify(images: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, L, patch*patch*C], in the order of a vision transformer's tokens."""
    b, c, height, width = images.shape
    cut = images.reshape(b, c, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """The inverse of patchify."""
    b, _, values = patches.shape
    cut = patches.reshape(b, *grid, patch, patch, values // patch**2)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, grid[0] * patch, grid[1] * patch)


def random_masking(key: DrawKey, index: Tensor, num_patches: int, num_masked: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each sample's own random subset, from its own noise (section 3, masking).

    Returns:
        keep int64 [B, K], the visible patches; restore int64 [B, L], each patch's place in (visible, masked);
        mask [B, L], 0 where visible and 1 where masked.
    """
    order = uniform(key, index, _MASK_DRAW, num_patches).argsort(dim=1, stable=True)
    restore = order.argsort(dim=1)
    num_kept = num_patches - num_masked
    return order[:, :num_kept], restore, (restore >= num_kept).to(torch.float32)


class MAE(Method):
    def __init__(self, config: MAEConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.num_patches = backbone.grid[0] * backbone.grid[1]
        self.num_masked = self.num_patches - int(self.num_patches * (1 - config.mask_ratio))
        self.num_prefix = backbone.prefix_tokens
        dim, patch_values = config.decoder_dim, backbone.patch_size**2 * backbone.channels
        self.decoder_embed = nn.Linear(backbone.width, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("decoder_positions", sincos_positions(backbone.grid, dim), persistent=False)  # [L, dim]
        self.decoder = nn.Sequential(
            *(Block(dim, config.decoder_heads, qkv_bias=True) for _ in range(config.decoder_depth)),
            LayerNorm(dim),
            nn.Linear(dim, patch_values),
        )
        backbone.fix_positions()
        self._initialise()

    def _initialise(self) -> None:
        """Xavier-uniform matrices, the patch projection seen as one of them; N(0, 0.02) tokens (appendix A.1)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        projection = self.backbone.model.patch_embed.proj  # type: ignore[union-attr]
        nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))  # type: ignore[union-attr, operator, arg-type, index]
        for token in (self.mask_token, self.backbone.model.cls_token):
            if token is not None:  # timm starts its class token at 1e-6
                nn.init.normal_(token, std=0.02)  # type: ignore[arg-type]

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        keep, restore, mask = random_masking(batch.key, batch.index, self.num_patches, self.num_masked)
        latent = self.backbone.tokens(
            batch.views["global"][0], keep
        )  # [B, P + K, width]: masked patches are never encoded
        return {
            "visible": latent[:, self.num_prefix :].mean(1),
            "prediction": self._decode(latent, restore),
            "mask": mask,
        }

    def _decode(self, latent: Tensor, restore: Tensor) -> Tensor:
        """[B, P + K, width] -> [B, L, patch values]."""
        x = self.decoder_embed(latent)
        prefix, visible = x[:, : self.num_prefix], x[:, self.num_prefix :]
        masked = self.mask_token.expand(len(x), self.num_masked, -1).to(x.dtype)
        patches = torch.cat((visible, masked), dim=1).gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        positions: Tensor = self.decoder_positions  # type: ignore[assignment]
        decoded = self.decoder(torch.cat((prefix, patches + positions.to(x.dtype)), dim=1))
        return decoded[:, self.num_prefix :]  # type: ignore[no-any-return]

    def target(self, images: Tensor) -> Tensor:
        """[B, L, patch values]: pixels, standardised per patch with the unbiased variance if norm_pixels."""
        patches = patchify(images, self.backbone.patch_size)
        if not self.config.norm_pixels:
            return patches
        return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        target, mask = self.target(batch.views["global"][0]), embeddings["mask"]
        error = (embeddings["prediction"] - target).square().mean(-1)  # [B, L]
        loss = (error * mask).sum() / mask.sum()  # masked patches only
        blind = ((target - target.mean(-1, keepdim=True)).square().mean(-1) * mask).sum() / mask.sum()
        logs = {"chance_loss": blind.detach()}  # of each patch's own mean, the best of flat predictions
        return StepOutput(loss, embeddings["visible"].detach(), logs, {})

    @torch.no_grad()
    def reconstruct(self, batch: Batch, clock: Clock) -> tuple[Tensor, Tensor]:
        """What the encoder saw (masked patches at 0, the mean) and what the decoder made of it: [B, C, H, W] each.

        Visible patches are shown as they were; standardised predictions are given their patch's own mean and deviation.
        """
        images, patch = batch.views["global"][0], self.backbone.patch_size
        out = self.embed(batch, clock)
        patches, prediction, mask = patchify(images, patch), out["prediction"].to(images.dtype), out["mask"][:, :, None]
        if self.config.norm_pixels:
            deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
            prediction = prediction * deviation + patches.mean(-1, keepdim=True)
        seen, filled = patches * (1 - mask), patches * (1 - mask) + prediction * mask
        return unpatchify(seen, self.backbone.grid, patch), unpatchify(filled, self.backbone.grid, patch)
