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
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from eval import layouts
from eval.base import Encoder, EvalData, Provenance
from ssl_cls import config, export, plan
from ssl_cls.augment.augment import Framing
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.config import Recipe
from ssl_cls.data import catalog
from ssl_cls.errors import UserError
from ssl_cls.pooling import TIMM_S

log = logging.getLogger(__name__)

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
        size = plan.input_size(config.resolved(recipe, size, source.channels))
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
    cfg: dict[str, Any] = model.pretrained_cfg
    return _elsewhere(model, cfg, Framing.of(cfg), Provenance(f"timm-{_slug(name)}", "timm", name, seed), {})


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
    loaded = layouts.load_into(model, Path(file), architecture)
    cfg: dict[str, Any] = dict(model.pretrained_cfg)
    if loaded.imagenet:  # not of the weights that timm itself has for this architecture
        cfg |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    whose = {"layout": loaded.layout, "statistics": "ImageNet's" if loaded.imagenet else "timm's"}
    if loaded.positions:
        whose["positions"] = loaded.positions
        log.warning("%s: position embeddings %s", file, loaded.positions)
    log.info("%s: read as %s, shown images with %s statistics", file, loaded.layout, whose["statistics"])
    run = f"weights-{_slug(str(Path(file).with_suffix('')))}"
    return _elsewhere(model, cfg, Framing(), Provenance(run, "weights", architecture, seed), whose)


def _check_name(name: str, where: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        fix = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise UserError(f"timm has no model named {name!r}", where, fix)


def _elsewhere(
    model: nn.Module, cfg: dict[str, Any], framing: Framing, come_from: Provenance, whose: dict[str, str]
) -> Encoder:
    """An encoder pooled as timm's own head pools, and fed as `cfg` and `framing` say, which its rows repeat."""
    channels, size, _ = cfg["input_size"]
    network = Backbone(model, own_pooling(model, channels, size))
    shown = {"size": size, "mean": list(cfg["mean"]), "std": list(cfg["std"]), **framing.to_timm()}
    come_from = replace(come_from, input={**shown, "pooling": network.pooling, **whose})
    out = Path("runs") / come_from.run / "eval"
    return replace(_encoder(network, size, cfg["mean"], cfg["std"], come_from, out), framing=framing)


@torch.no_grad()  # weights made in inference mode could not be trained
def own_pooling(model: nn.Module, channels: int, size: int) -> str:
    """How timm's own head pools: "cls" or "avg" where it does just that, else "timm". `model` is put into eval mode.

    Raises:
        UserError: an architecture whose features cannot be taken.
    """
    backbone = Backbone(model.eval(), TIMM_S)
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    (last,) = backbone.outputs(images, (-1,))
    own = backbone.pool(last)
    plain = ["cls"] * (last.ndim == 3 and backbone.prefix_tokens > 0) + ["avg"] * (
        last.ndim == 4 or last.shape[1] > backbone.prefix_tokens
    )
    for name in plain:
        ours = backbone.pool(last, name)
        if ours.shape == own.shape and torch.allclose(ours, own, rtol=1e-4, atol=1e-5):
            return name
    return TIMM_S


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
    come_from = replace(come_from, recipe=config.digest(config.load(path / "recipe.yaml")))
    return _exported(*export.load_encoder(path / "encoder"), come_from, path / "eval")


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
    network, saved = export.load_encoder(folder)
    come_from = Provenance(run, "weights", saved["architecture"], seed)
    if "ssl_cls" in saved:
        return _exported(network, saved, come_from, Path("runs") / run / "eval")
    cfg = saved["pretrained_cfg"]
    return _elsewhere(network.model, cfg, Framing.of(cfg), come_from, {})


def _exported(network: Backbone, saved: dict[str, Any], come_from: Provenance, out: Path) -> Encoder:
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
