"""The encoder as it leaves a run: timm's own folder format, with pooling and provenance beside it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_cls import durable
from ssl_cls.augment.augment import Framing
from ssl_cls.backbone import Backbone
from ssl_cls.errors import UserError


def save_encoder(
    backbone: Backbone,
    folder: Path,
    *,
    input_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    provenance: dict[str, Any],
    framing: Framing = Framing(1.0),  # noqa: B008
) -> None:
    """Write config.json, model.safetensors and provenance.json; the folder appears whole or not at all.

    timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0) rebuilds the model: a vision
    transformer as it is, a small ResNet after `import ssl_cls`.

    Raises:
        OSError: the disk is full or read-only.
    """
    config = describe(backbone, input_size, mean, std, framing)
    write(folder, config, {"model": backbone.model.state_dict()}, provenance)


def describe(
    backbone: Backbone,
    input_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    framing: Framing = Framing(1.0),  # noqa: B008
) -> dict[str, Any]:
    """timm's config.json of an encoder. `framing`: how it is shown images."""
    model: Any = backbone.model
    cfg = {
        "input_size": [backbone.channels, input_size, input_size],
        "fixed_input_size": bool(model.pretrained_cfg.get("fixed_input_size", False)),
        "mean": list(mean), "std": list(std), **framing.to_timm(), "num_classes": 0,
        **{key: model.pretrained_cfg.get(key) for key in ("first_conv", "classifier")},
    }  # fmt: skip
    return {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": 0,
        "num_features": backbone.width,
        "model_args": backbone.model_args,
        "pretrained_cfg": cfg,
        "ssl_cls": {"pooling": backbone.pooling},
    }


def write(
    folder: Path, config: dict[str, Any], weights: dict[str, dict[str, Tensor]], provenance: dict[str, Any]
) -> None:
    """config.json, NAME.safetensors, provenance.json: the folder appears whole or not at all.

    Raises:
        OSError: the disk is full or read-only.
    """
    with durable.written(folder) as writing:
        for name, tensors in weights.items():
            plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(plain, writing / f"{name}.safetensors")
        (writing / "provenance.json").write_text(json.dumps(provenance, indent=1))
        (writing / "config.json").write_text(json.dumps(config, indent=1))


def load_encoder(folder: Path) -> tuple[Backbone, dict[str, Any]]:
    """The encoder of a folder that save_encoder or timm wrote, and its config.json.

    Weights are checked name by name. A classifier that timm saved with them is checked too, then left off.

    Raises:
        UserError: no such folder, damaged files, or weights that are not the architecture's.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        architecture = config["architecture"]
        if not (isinstance(architecture, str) and timm.is_model(architecture)):  # timm would also follow it to a hub
            raise ValueError(f"timm has no architecture {architecture!r:.100}")
        weights = load_file(folder / "model.safetensors")
        channels, _, _ = config["pretrained_cfg"]["input_size"]
        args = {"in_chans": channels, "num_classes": config.get("num_classes", 0)}
        args |= config.get("model_args", {})
        model = timm.create_model(architecture, pretrained=False, **args)
        model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise UserError("no encoder here", str(folder), "give the folder encoder/ of a finished run") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"this is no whole encoder: {error!r:.300}", str(folder), "export it again") from error
    if args.pop("num_classes"):
        model.reset_classifier(0)
    model.model_args = args
    usual = "cls" if config.get("global_pool") == "token" else "avg"
    return Backbone(model, config.get("ssl_cls", {}).get("pooling", usual)), config


def sha256(network: nn.Module) -> str:
    """Of names, types, shapes and bytes of all weights, whatever device and memory layout they are in."""
    digest = hashlib.sha256()
    tensors: dict[str, Tensor] = network.state_dict()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
