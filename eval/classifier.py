"""An encoder's network under a linear head: trained, written to a folder, and loaded from there to be used."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import DropPath
from torch import Tensor, nn

from ssl_cls import export
from ssl_cls.augment.augment import Framing
from ssl_cls.backbone import Backbone
from ssl_cls.errors import UserError
from ssl_cls.pooling import TIMM_S


class Classifier(nn.Module):
    """A copy of an encoder's network, all of it trainable, under a fresh linear head.

    Differs: the head starts as torch's do, where MAE's starts within 2e-5 of zero (He et al. 2022, A.1).
    From zero a ViT hardly trains: 34 % against 66, 250 steps from scratch, 600 labels of Fashion-MNIST.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, example: Tensor, dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        copied = _with_drop_path(network, drop_path) if drop_path else copy.deepcopy(network)
        self.network = copied.requires_grad_().to(example.device).eval()
        with torch.no_grad():
            dim = self._features(example).shape[1]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_classes, device=example.device)

    @classmethod
    def of(cls, network: nn.Module, weight: Tensor, bias: Tensor, example: Tensor) -> "Classifier":
        """In eval mode, with a head that is known: weight [num_classes, dim], bias [num_classes]."""
        with torch.random.fork_rng(devices=[]):
            model = cls(network, len(bias), example)
        model.head.load_state_dict({"weight": weight, "bias": bias})
        return model.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """float [B, C, H, W] -> logits [B, num_classes]."""
        return self.classify(self._features(images))

    def classify(self, features: Tensor) -> Tensor:
        """[B, dim] -> logits [B, num_classes]."""
        return self.head(self.dropout(features))  # type: ignore[no-any-return]

    def _features(self, images: Tensor) -> Tensor:
        return self.network.features(images)  # type: ignore[operator, no-any-return]


def _with_drop_path(network: nn.Module, rate: float) -> nn.Module:
    """The network built anew with stochastic depth up to `rate` in its last block, and the same weights."""
    assert isinstance(network, Backbone)
    model: Any = network.model
    args = {**network.model_args, "num_classes": 0, "drop_path_rate": rate}
    name = model.pretrained_cfg["architecture"]
    try:
        dropping = timm.create_model(name, pretrained=False, **args)
        has_any = any(isinstance(module, DropPath) for module in dropping.modules())
    except TypeError:
        has_any = False
    if not has_any:
        raise UserError(f"{name} has no drop path", "finetune.drop_path", "leave it out, or take a vision transformer")
    dropping.load_state_dict(model.state_dict())
    dropping.model_args = network.model_args
    return Backbone(dropping, network.pooling)


@dataclass(frozen=True)
class Trained:
    """A classifier with all that it takes to use it on images."""

    model: Classifier
    class_names: list[str]
    input_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    framing: Framing
    probabilities: Literal["softmax", "sigmoid"] | None  # what makes them of logits; None: logits are scores
    several: bool = False  # an image may have any number of the labels
    window: tuple[float, float] | None = None  # which values of deep pixels are 0 and 255


def save(trained: Trained, folder: Path, provenance: dict[str, Any]) -> bool:
    """Write the folder whole or not at all. True: it is plain timm, and timm alone gives the same logits:

        timm.create_model("local-dir:FOLDER", pretrained=True)

    (a small ResNet after `import ssl_cls`). False: the head sits on features that timm's own head does not see, such as
    the 2 x 2 means of avg2x2. Then timm loads the encoder (num_classes=0), head.safetensors is beside it, and `load`
    puts them together.
    """
    network = trained.model.network
    assert isinstance(network, Backbone)
    config = export.describe(network, trained.input_size, trained.mean, trained.std, trained.framing)
    config["label_names"] = trained.class_names
    config["ssl_cls"] |= {"probabilities": trained.probabilities, "several": trained.several, "window": trained.window}
    plain = _plain(trained.model, network, trained.input_size)
    if plain is None:
        head = trained.model.head.state_dict()
        export.write(folder, config, {"model": network.model.state_dict(), "head": head}, provenance)
        return False
    config["num_classes"] = config["pretrained_cfg"]["num_classes"] = len(trained.class_names)
    config["model_args"] |= _own_pooling(network)
    export.write(folder, config, {"model": plain.state_dict()}, provenance)
    return True


def _own_pooling(network: Backbone) -> dict[str, Any]:
    """timm's arguments for what `network` does: the pooled tokens are normed before they are pooled."""
    if not network.is_vit or network.pooling == TIMM_S:
        return {}
    return {"global_pool": "token" if network.pooling == "cls" else "avg", "fc_norm": False}


def _plain(classifier: Classifier, network: Backbone, size: int) -> nn.Module | None:
    """timm's own model with the head in it, if its logits are the classifier's; else None."""
    weights, head, cfg = network.model.state_dict(), classifier.head, network.model.pretrained_cfg
    args = {**network.model_args, **_own_pooling(network), "num_classes": head.out_features}
    try:
        plain = timm.create_model(cfg["architecture"], pretrained=False, **args)  # type: ignore[index]
        missing, unexpected = plain.load_state_dict(weights, strict=False)
    except (TypeError, ValueError, RuntimeError):
        return None  # an architecture that cannot be told to pool as we do
    own = plain.to(head.weight.device).get_classifier()
    if not isinstance(own, nn.Linear) or own.weight.shape != head.weight.shape:
        return None
    where = next(name for name, module in plain.named_modules() if module is own)
    if unexpected or set(missing) != {f"{where}.weight", f"{where}.bias"}:
        return None
    own.load_state_dict(head.state_dict())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, network.channels, size, size, generator=generator).to(head.weight.device)
    with torch.inference_mode():
        same = torch.allclose(plain.eval()(images), classifier(images), rtol=1e-4, atol=1e-5)
    return plain if same else None


def load(folder: Path | str) -> Trained:
    """The classifier that `save` wrote, in eval mode. `folder` may be a run's that has one classifier.

    Raises:
        UserError: there is none, several are there, or the files are damaged.
    """
    folder = _found(Path(folder))
    network, config = export.load_encoder(folder)
    try:
        own, cfg, names = config["ssl_cls"], config["pretrained_cfg"], list(config["label_names"])
        channels, size, _ = cfg["input_size"]
        if (folder / "head.safetensors").is_file():
            head = load_file(folder / "head.safetensors")
        else:
            weights = load_file(folder / "model.safetensors")
            head = {part: weights[f"{cfg['classifier']}.{part}"] for part in ("weight", "bias")}
        return Trained(
            Classifier.of(network, head["weight"], head["bias"], torch.zeros(1, channels, size, size)),
            [str(name) for name in names],
            size,
            channels,
            tuple(cfg["mean"]),
            tuple(cfg["std"]),
            Framing.of(cfg),
            own["probabilities"],
            own.get("several", False),
            tuple(own["window"]) if own.get("window") else None,
        )
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"this is no whole classifier: {error!r:.300}", str(folder), "evaluate again") from error


def _found(folder: Path) -> Path:
    """The folder of the classifier that is meant: itself, or the only one below classifier/ of a run."""
    if (folder / "config.json").is_file():
        return folder
    inside = folder / "classifier" if (folder / "classifier").is_dir() else folder
    below = [path.parent for depth in ("*", "*/*") for path in inside.glob(f"{depth}/config.json")]
    found = sorted(path for path in below if path.name != "encoder" and not path.name.startswith("."))
    if folder.is_dir() and len(found) > 1:
        raise UserError("several classifiers are here", str(folder), f"give one of {', '.join(map(str, found))}")
    if not found:
        make = "make one: python tools/evaluate.py RUNDIR --evaluators finetune (or linear)"
        raise UserError("no classifier here", str(folder), make)
    return found[0]
