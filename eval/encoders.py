"""From what a person writes on the command line to an encoder: SPEC is one of

RUNDIR           what a finished run exported
pixels           no network: the image itself
random:X         X's architecture with fresh weights from the seed; X is a timm name, a recipe .yaml or a run directory
timm:NAME        weights that timm fetches
weights:FILE@X   weights that MoCo, SimSiam, BYOL, DINO, DINOv2, MAE, lightly, solo-learn, timm or torchvision saved, as
                 .safetensors or torch's zip format; X is the timm name of their architecture
PATH             a folder with config.json and model.safetensors, or that model.safetensors
"""

import difflib
import json
import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from eval import layouts
from eval.base import Encoder, EvalData, Provenance
from ssl_cls import config, export
from ssl_cls.augment.view import expand
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.config import Recipe
from ssl_cls.data import catalog
from ssl_cls.errors import UserError

_FORMS = "give a run directory, pixels, random:BACKBONE, timm:NAME, weights:FILE@ARCHITECTURE or a model.safetensors"


class Pixels(nn.Module):
    """The raw-pixel floor: `features` is the image, flattened."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def load(spec: str, data: EvalData, seed: int) -> Encoder:
    """The encoder that `spec` names. `seed`: of fresh weights, and of the heads on weights from elsewhere.

    Raises:
        UserError: there is no such thing, or the run is not finished.
    """
    kind, colon, name = spec.partition(":")
    if spec == "pixels":
        return _pixels(data)
    if kind == "random" and colon:
        return _random(name, data, seed)
    if kind == "timm" and colon:
        return _pretrained(name, seed)
    if kind == "weights" and colon:
        return _foreign(name, seed)
    path = Path(spec)
    if (path / "recipe.yaml").is_file():
        return _run(path, data)
    return _weights(path, seed)


def recipe_of(spec: str) -> Recipe | None:
    """The recipe behind a spec, whose data are the natural ones to judge it on; None where there is none."""
    path = Path(spec.removeprefix("random:"))
    if path.suffix in (".yaml", ".yml"):
        return config.load(path)
    return config.load(path / "recipe.yaml") if (path / "recipe.yaml").is_file() else None


def _pixels(data: EvalData) -> Encoder:
    source = data.train
    size = max(source.size) if source.size else 32  # files: small enough to be compared as pixels
    zeros, ones = (0.0,) * source.channels, (1.0,) * source.channels  # raw: cosines depend on where zero is
    return Encoder(
        Pixels(),
        size,
        source.channels,
        zeros,
        ones,
        "pixels",
        Provenance("pixels", "pixels", "", 0),
        Path("runs/pixels/eval"),
    )


def _random(name: str, data: EvalData, seed: int) -> Encoder:
    source = data.train
    size = catalog.input_size(source)
    if recipe := recipe_of(name):
        backbone = recipe.backbone
        views = config.resolved(recipe, size, source.channels).views or ()
        size = next(view.size for view in expand(views) if view.kind == "global" and view.size)
    else:
        backbone = BackboneConfig(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # as a run of that seed begins
        network = build(backbone, source.channels, size)
    pooling = "" if backbone.pooling == "avg" else f" {backbone.pooling}"
    run = f"random-{_slug(backbone.label + pooling)}-seed{seed}"
    come_from = Provenance(run, "random", backbone.label, seed)
    return _encoder(network, size, source.mean, source.std, come_from, Path("runs") / run / "eval")


def _pretrained(name: str, seed: int) -> Encoder:
    _check_name(name, f"timm:{name}")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub, the network and timm each raise their own
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"timm cannot fetch weights for {name}: {reason}",
            f"timm:{name}",
            "check the network, or copy the weights here and give weights:FILE@ARCHITECTURE",
        ) from error
    return _timm_s(model, Provenance(f"timm-{_slug(name)}", "timm", name, seed))


def _foreign(name: str, seed: int) -> Encoder:
    """FILE@ARCHITECTURE."""
    file, at, architecture = name.rpartition("@")
    if not at:
        raise UserError(
            "weights alone do not say what architecture they are of",
            f"weights:{name}",
            "add it, as timm calls it: weights:FILE@resnet50",
        )
    _check_name(architecture, f"weights:{name}")
    model = timm.create_model(architecture, pretrained=False, num_classes=0)
    layouts.load_into(model, Path(file), architecture)
    return _timm_s(
        model, Provenance(f"weights-{_slug(str(Path(file).with_suffix('')))}", "weights", architecture, seed)
    )


def _check_name(name: str, where: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        fix = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise UserError(f"timm has no model named {name!r}", where, fix)


def _timm_s(model: nn.Module, come_from: Provenance) -> Encoder:
    """An encoder that is fed and pooled as timm's own configuration says."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    network = Backbone(model, "cls" if getattr(model, "global_pool", "") == "token" else "avg")
    out = Path("runs") / come_from.run / "eval"
    return _encoder(network, cfg["input_size"][1], cfg["mean"], cfg["std"], come_from, out)


def _run(path: Path, data: EvalData) -> Encoder:
    if not (path / "encoder" / "config.json").is_file():
        raise UserError(
            "this run is not finished: it has no encoder yet",
            str(path),
            f"resume it: accelerate launch tools/pretrain.py {path / 'recipe.yaml'}",
        )
    try:
        come_from = Provenance(**json.loads((path / "encoder" / "provenance.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"this run does not say where it comes from: {error}",
            str(path / "encoder" / "provenance.json"),
            "pretrain it again",
        ) from error
    same = come_from.dataset == f"{data.name}/train" and come_from.images and data.trainable
    if same and come_from.images not in data.trainable:
        raise UserError(
            f"{come_from.dataset} is no longer what this run was trained on: images were added, removed, changed, or "
            "moved between splits, as new labels do; it may have seen what is tested on",
            str(path),
            "move it away and pretrain anew; a test split of the data's own is not moved",
        )
    return _exported(path / "encoder", come_from, path / "eval")


def _weights(path: Path, seed: int) -> Encoder:
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UserError(f"no encoder {str(path)!r}", str(path), _FORMS)
    if (path.is_file() and path.name != "model.safetensors") or not (folder / "config.json").is_file():
        raise UserError(
            "weights alone do not say what architecture they are of",
            str(path),
            f"add it, as timm calls it: weights:{path}@ARCHITECTURE; or put timm's config.json beside it",
        )
    run = _slug(str(folder))
    saved = json.loads((folder / "config.json").read_text())
    return _exported(
        folder,
        Provenance(run, "weights", str(saved.get("architecture", "")), seed),
        Path("runs") / run / "eval",
    )


def _exported(folder: Path, come_from: Provenance, out: Path) -> Encoder:
    network, saved = export.load_encoder(folder)
    cfg = saved["pretrained_cfg"]
    return _encoder(network, cfg["input_size"][1], cfg["mean"], cfg["std"], come_from, out)


def _encoder(
    network: Backbone,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    come_from: Provenance,
    out: Path,
) -> Encoder:
    digest = export.sha256(network.model)  # timm's names: what anyone finds in model.safetensors
    return Encoder(network.eval(), size, network.channels, tuple(mean), tuple(std), digest, come_from, out)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:100]
