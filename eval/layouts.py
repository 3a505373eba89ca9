"""Weights from elsewhere: how the public code of each method names what it saves, and what that is called in timm.

A layout is data: where in the file the encoder is, what beside it there belongs to the method, and what to rename.
Nothing is guessed: a file that has the encoder under no known name, or not the whole of it, is refused.
"""

import argparse
import math
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ssl_cls.errors import UserError

_NAMED = 4  # tensors that a refusal names


class Layout(NamedTuple):
    name: str
    where: str  # regular expression of what comes before the encoder's own names; "/" enters a dictionary of the file
    renames: tuple[tuple[str, str], ...] = ()  # regular expressions, applied in turn
    timm_s: bool = False  # timm writes this, too: beside a classifier the weights are its own


class Loaded(NamedTuple):
    layout: str
    imagenet: bool  # ImageNet's mean and standard deviation are what it was trained with; else as timm configures it
    positions: str  # what was done to position embeddings of another grid, "" where nothing


# nn.Sequential(*resnet.children()): lightly's examples and ports of BYOL number torchvision's modules
_NUMBERED = (
    *((rf"^{number}\.", f"{name}.") for number, name in ((0, "conv1"), (1, "bn1"))),
    *((rf"^{number}\.(?=\d)", f"layer{number - 3}.") for number in (4, 5, 6, 7)),
)
_DINOV2 = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # FSDP's chunks of blocks
    (r"\.mlp\.w12\.", ".mlp.fc1."),  # SwiGLU
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)
_TORCHVISION_VIT = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
)

# The first that a file has is the one. Of two networks it is the one that the paper evaluates: MoCo's query
# encoder, MoCo v3's base encoder, BYOL's online network, DINO's and DINOv2's teacher.
LAYOUTS = (
    Layout("MoCo", r"state_dict/module\.encoder_q\."),
    Layout("MoCo v3", r"state_dict/module\.base_encoder\."),
    Layout("SimSiam", r"state_dict/module\.encoder\."),
    Layout(
        "BYOL", r"(?:online_network_state_dict/|state_dict/online_)(?:module\.)?(?:encoder|network|net)\.", _NUMBERED
    ),
    Layout("DINO or DINOv2, teacher", r"teacher/(?:module\.)?backbone\.", _DINOV2),
    Layout("DINOv2, teacher of a whole run", r"model/teacher\.backbone\.", _DINOV2),
    Layout("DINO or DINOv2, student", r"student/(?:module\.)?backbone\.", _DINOV2),
    Layout("lightly, teacher", r"(?:state_dict/)?teacher_backbone\.(?:vit\.)?", _NUMBERED),
    # its benchmarks: beside student_backbone this is the teacher
    Layout("lightly or solo-learn", r"(?:state_dict/)?(?:model\.)?backbone\.(?:vit\.)?", _NUMBERED),
    Layout("lightly, student", r"(?:state_dict/)?student_backbone\.(?:vit\.)?", _NUMBERED),
    Layout("solo-learn before 2022", r"state_dict/encoder\."),
    Layout("MAE", r"model/(?:module\.)?", _DINOV2),
    Layout("timm", r"(?:model_state_dict|state_dict)/(?:module\.)?", _DINOV2, timm_s=True),
    Layout("torchvision's vision transformer", r"(?=(?:class_token|conv_proj\.|encoder\.|heads\.))", _TORCHVISION_VIT),
    Layout("timm, torchvision, DINO or DINOv2", "", _DINOV2, timm_s=True),
)

# Beside the encoder's own: classifiers and projectors on top of it, MAE's decoder, tokens that stand in for masked ones
_METHOD_S = re.compile(r"(?:fc|head|heads|classifier|projector|pre_logits|decoder_\w+)(?:\.|$)|mask_token$")


_CLASSIFIER = re.compile(r"(?:.*[./])?(?:fc|head|head\.fc|classifier)\.weight$")


def load_into(model: nn.Module, path: Path, architecture: str) -> Loaded:
    """Fill all of `model`, a timm model without a classifier, from a weights file.

    Learned positions of another square grid are resampled, bicubic and antialiased, as timm does.

    Raises:
        UserError: the file cannot be read without running code, or holds other weights than the model's; what is
            missing, left over or of another shape is named.
    """
    tensors = read(path)
    layout = next(one for one in LAYOUTS if any(re.match(one.where, name) for name in tensors))
    found = _encoder_part(tensors, layout, path)
    own: dict[str, Tensor] = model.state_dict()
    positions = _fit_positions(model, found, own) if "pos_embed" in found.keys() & own.keys() else ""
    counted = {name for name in own if name.endswith("num_batches_tracked")}  # torch < 0.4.1 did not save it
    faults = {
        "missing": sorted(own.keys() - found.keys() - counted),
        "unexpected": sorted(found.keys() - own.keys()),
        "of another shape": [
            f"{name} {list(found[name].shape)} for {list(own[name].shape)}"
            for name in sorted(own.keys() & found.keys())
            if found[name].shape != own[name].shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{kind}: {_some(names)}" for kind, names in faults.items() if names)
        raise UserError(
            f"read as {layout.name}, these are not the weights of {architecture}: {told}",
            str(path),
            "name the architecture they are of, as timm calls it: weights:PATH@ARCHITECTURE",
        )
    model.load_state_dict(found, strict=False)  # all names were compared above
    own_statistics = layout.timm_s and any(_CLASSIFIER.match(name) for name in tensors)
    return Loaded(layout.name, not own_statistics, positions)


def _fit_positions(model: Any, found: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """Changes `found`; what cannot be fitted stays as it is, and is refused by its shape."""
    given, wanted = found["pos_embed"], own["pos_embed"]
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is None or (given.ndim, wanted.ndim) != (3, 3) or given.shape[::2] != wanted.shape[::2]:
        return ""
    prefix = wanted.shape[1] - math.prod(grid)
    has_registers, patches = {"reg_token", "cls_token"} <= found.keys(), given.shape[1] - 1
    if has_registers and not prefix and patches > 0 and math.isqrt(patches) ** 2 == patches:
        # timm's models with registers have no position of the class token: it is in the token itself
        found["cls_token"] = found["cls_token"] + given[:, :1]
        found["pos_embed"] = given = given[:, 1:]
    side = math.isqrt(max(0, given.shape[1] - prefix))
    if given.shape == wanted.shape or not side or side**2 != given.shape[1] - prefix:
        return ""
    found["pos_embed"] = resample_abs_pos_embed(given, list(grid), num_prefix_tokens=prefix)
    return f"resampled from {side} x {side} to {grid[0]} x {grid[1]}"


def _encoder_part(tensors: dict[str, Tensor], layout: Layout, path: Path) -> dict[str, Tensor]:
    """The encoder's tensors by timm's names."""
    found = {}
    for name, value in tensors.items():
        if not (begin := re.match(layout.where, name)):
            continue
        name = name[begin.end() :]
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        if not _METHOD_S.match(name):
            if name in found:
                what = f"read as {layout.name}, two of its tensors are {name}"
                raise UserError(what, str(path), "keep one of the networks in the file")
            found[name] = value
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file or of a torch file in its zip format, "/" between nested dictionaries.

    torch files are unpickled by torch's restricted unpickler, which builds tensors and plain containers alone
    (and argparse.Namespace, a record of options, which training scripts save beside weights). There is no second try.

    Raises:
        UserError: no such file, another format, a damaged file, or one with other objects in it.
    """
    if not path.is_file():
        raise UserError("no such weights file", str(path), "give weights:PATH@ARCHITECTURE")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"this is no whole safetensors file: {error}", str(path), "get it again") from error
    if not zipfile.is_zipfile(path):
        raise UserError(
            "neither safetensors nor torch's zip format (older torch files and other pickles can run code)",
            str(path),
            "where you trust it, load it with torch and save its state_dict as .safetensors",
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes make the reader raise whatever they like
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "lobal" in line), str(error))
        raise UserError(
            f"not weights alone, or damaged: {reason.strip()[:200]}",
            str(path),
            "where you trust it, load it with torch and save its state_dict as .safetensors",
        ) from error
    tensors = dict(_tensors(content, ""))
    if not tensors:
        raise UserError("this file has no tensors in it", str(path), "give a state_dict or a checkpoint")
    return tensors


def _tensors(content: Any, prefix: str) -> Any:
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{key}", value
            elif not str(key).startswith("optim"):
                yield from _tensors(value, f"{prefix}{key}/")
