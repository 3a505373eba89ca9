"""Checkpoints as the public code of each method writes them, around models of torchvision and timm."""

import argparse
import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from lightly.models.modules import MaskedVisionTransformerTIMM
from safetensors.torch import save_file
from torch import Tensor, nn

from eval import encoders, layouts
from eval.base import EvalData
from ssl_cls.errors import UserError

Weights = dict[str, Tensor]
UNUSED: EvalData = None  # type: ignore[assignment]  # weights from elsewhere do not ask the data


def _shaken(model: nn.Module) -> nn.Module:
    """Every tensor away from what an initialisation sets it to."""
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.02 * torch.rand(value.shape, generator=generator) + 0.01)
        else:
            value.fill_(7)
    return model.eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return _shaken(torchvision.models.resnet18())


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return _shaken(timm.create_model("test_vit", num_classes=0))


def _under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def _numbered(weights: Weights) -> Weights:
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    return {
        f"{names.index(name.partition('.')[0])}.{name.partition('.')[2]}": value
        for name, value in weights.items()
        if not name.startswith("fc")
    }


HEAD = {"fc.0.weight": torch.zeros(4, 4), "fc.2.bias": torch.zeros(4)}
DINO_HEAD = {"head.mlp.0.weight": torch.zeros(4, 4), "head.last_layer.weight_g": torch.zeros(4, 1)}
OTHER = {"projector.0.weight": torch.zeros(2, 2), "queue": torch.zeros(2, 4)}

RESNETS: dict[str, Callable[[Weights], Any]] = {
    "MoCo": lambda w: {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": _under("module.encoder_q.", {**w, **HEAD})
        | _under("module.encoder_k.", {k: v + 1 for k, v in w.items()})
        | {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
    },
    "MoCo v3": lambda w: {
        "state_dict": _under("module.base_encoder.", {**w, **HEAD})
        | _under("module.momentum_encoder.", {k: v + 1 for k, v in w.items()})
        | {"module.predictor.0.weight": torch.zeros(2, 2)},
    },
    "SimSiam": lambda w: {
        "state_dict": _under("module.encoder.", {**w, **HEAD}) | {"module.predictor.0.weight": torch.zeros(2, 2)},
    },
    "BYOL": lambda w: {
        "online_network_state_dict": _under("encoder.", _numbered(w)) | {"projetion.net.0.weight": torch.zeros(2, 2)},
        "target_network_state_dict": _under("encoder.", _numbered({k: v + 1 for k, v in w.items()})),
    },
    "DINO or DINOv2, teacher": lambda w: {
        "student": _under("module.backbone.", {k: v + 1 for k, v in w.items()}),
        "teacher": _under("backbone.", w) | DINO_HEAD,
        "args": argparse.Namespace(arch="resnet18"),
    },
    "lightly or solo-learn": lambda w: {
        "state_dict": _under("backbone.", _numbered(w))  # as in lightly's benchmarks, the teacher
        | _under("student_backbone.", _numbered({k: v + 1 for k, v in w.items()}))
        | OTHER
    },
    "lightly, teacher": lambda w: {
        "state_dict": _under("student_backbone.", {k: v + 1 for k, v in w.items()}) | _under("teacher_backbone.", w)
    },
    "solo-learn before 2022": lambda w: {"state_dict": _under("encoder.", {**w, **HEAD}) | OTHER},
    "timm, torchvision, DINO or DINOv2": lambda w: w,
}


@pytest.mark.parametrize("name", RESNETS)
def test_e16_a_resnet_is_read_whole_whoever_saved_it(name: str, resnet: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(RESNETS[name](resnet.state_dict()), path)
    fresh = timm.create_model("resnet18", num_classes=0).state_dict()
    model = timm.create_model("resnet18", num_classes=0)
    assert layouts.load_into(model, path, "resnet18").layout == name
    for tensor, value in model.state_dict().items():
        assert torch.equal(value, resnet.state_dict()[tensor]), tensor
        assert not torch.equal(value, fresh[tensor]), tensor
    encoder = encoders.load(f"weights:{path}@resnet18", UNUSED, 0)
    images = torch.rand(2, 3, 64, 64)
    body = nn.Sequential(*list(resnet.children())[:-1])
    with torch.inference_mode():
        torch.testing.assert_close(encoder.network.features(images), body(images).flatten(1), atol=1e-4, rtol=1e-4)  # type: ignore[operator]


MASKED = {"mask_token": torch.zeros(1, 1, 4), "decoder_embed.weight": torch.zeros(2, 2)}
VITS: dict[str, Callable[[Weights], Any]] = {
    "MAE": lambda w: {"model": {**w, **MASKED, "decoder_blocks.0.norm1.weight": torch.zeros(2)}},
    "MoCo v3": lambda w: {"state_dict": _under("module.base_encoder.", {**w, "head.0.weight": torch.zeros(2, 2)})},
    "DINO or DINOv2, teacher": lambda w: {
        "teacher": {
            **{"backbone." + re.sub(r"^blocks\.", "blocks.1.", name): value for name, value in w.items()},
            "backbone.mask_token": torch.zeros(1, 4),
            "dino_head.mlp.0.weight": torch.zeros(2, 2),
        }
    },
    "DINO or DINOv2, student": lambda w: {"student": _under("module.backbone.", w) | DINO_HEAD},
    "DINOv2, teacher of a whole run": lambda w: {"model": _under("teacher.backbone.", w) | _under("student.x.", w)},
    "lightly, student": lambda w: {"state_dict": _under("student_backbone.", w) | OTHER},
    "lightly or solo-learn": lambda w: {
        "state_dict": _under("backbone.vit.", w) | {"backbone.mask_token": torch.zeros(1, 1, 64)} | OTHER
    },
    "timm, torchvision, DINO or DINOv2": lambda w: {**w, "mask_token": torch.zeros(1, 4)},
}


@pytest.mark.parametrize("name", VITS)
def test_e16_a_vision_transformer_is_read_whole_whoever_saved_it(name: str, vit: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(VITS[name](vit.state_dict()), path)
    model = timm.create_model("test_vit", num_classes=0)
    assert layouts.load_into(model, path, "test_vit").layout == name
    for tensor, value in model.state_dict().items():
        assert torch.equal(value, vit.state_dict()[tensor]), tensor


def test_lightly_s_masked_vision_transformer_is_read_as_lightly_saves_it(vit: nn.Module, tmp_path: Path) -> None:
    wrapped = nn.ModuleDict(
        {"backbone": MaskedVisionTransformerTIMM(copy.deepcopy(vit), pos_embed_initialization="skip")}
    )
    torch.save({"state_dict": wrapped.state_dict()}, tmp_path / "lightly.ckpt")
    model = timm.create_model("test_vit", num_classes=0)
    layouts.load_into(model, tmp_path / "lightly.ckpt", "test_vit")
    for tensor, value in model.state_dict().items():
        assert torch.equal(value, wrapped["backbone"].vit.state_dict()[tensor]), tensor  # type: ignore[union-attr]


def test_two_networks_under_one_name_are_refused(resnet: nn.Module, tmp_path: Path) -> None:
    weights = resnet.state_dict()
    torch.save(_under("backbone.", weights) | {"state_dict": _under("backbone.", weights)}, tmp_path / "both.pth")
    with pytest.raises(UserError, match="two of its tensors are conv1"):
        layouts.load_into(timm.create_model("resnet18", num_classes=0), tmp_path / "both.pth", "resnet18")


def test_torchvision_s_vision_transformer_is_timm_s_under_other_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = _shaken(torchvision.models.VisionTransformer(160, 16, 6, 2, 64, 192))
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    encoder = encoders.load(f"weights:{tmp_path / 'vit.safetensors'}@test_vit", UNUSED, 0)
    assert encoder.provenance.backbone == "test_vit"
    theirs.heads = nn.Identity()
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.network.features(images), theirs(images), atol=1e-4, rtol=1e-4)  # type: ignore[operator]


def test_dinov2_s_registers_leave_the_class_token_its_position(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=0, reg_tokens=4, no_embed_class=True)
    own = _shaken(timm.create_model("test_vit", num_classes=0, reg_tokens=4, no_embed_class=True)).state_dict()
    place = torch.rand(1, 1, 64)
    saved = {**own, "register_tokens": own["reg_token"], "cls_token": own["cls_token"] - place}
    saved |= {"pos_embed": torch.cat((place, own["pos_embed"]), 1), "mask_token": torch.zeros(1, 64)}
    del saved["reg_token"]
    torch.save(saved, tmp_path / "dinov2.pth")
    layouts.load_into(model, tmp_path / "dinov2.pth", "test_vit")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, own[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "blocks.3.mlp.fc1.bias"}, r"missing: blocks\.3\.mlp\.fc1\.bias"),
        (lambda w: {**w, "blocks.9.norm1.weight": torch.zeros(64)}, r"unexpected: blocks\.9\.norm1\.weight"),
        (lambda w: {**w, "pos_embed": torch.zeros(1, 6, 64)}, r"pos_embed \[1, 6, 64\] for \[1, 101, 64\]"),
        (lambda w: {"weird." + k: v for k, v in w.items()}, r"missing: .* more; unexpected: .* more"),
        (lambda w: {"state_dict": {"module.encoder_q." + k: v for k, v in list(w.items())[:3]}}, "read as MoCo"),
    ],
)
def test_what_is_not_exactly_the_architecture_is_named_and_refused(
    change: Callable[[Weights], Any], said: str, vit: nn.Module, tmp_path: Path
) -> None:
    torch.save(change(vit.state_dict()), tmp_path / "x.pth")
    with pytest.raises(UserError, match=said):
        layouts.load_into(timm.create_model("test_vit", num_classes=0), tmp_path / "x.pth", "test_vit")


@pytest.mark.parametrize("prefix", [0, 1])
def test_positions_of_another_resolution_are_resampled_as_timm_does_and_it_is_said(
    prefix: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args: dict[str, Any] = {"num_classes": 0} if prefix else {"num_classes": 0, "class_token": False}
    args |= {} if prefix else {"global_pool": "avg", "fc_norm": False}
    theirs = _shaken(timm.create_model("test_vit", img_size=224, **args))
    torch.save({"model": theirs.state_dict()}, tmp_path / "mae.pth")
    model = timm.create_model("test_vit", **args)
    assert layouts.load_into(model, tmp_path / "mae.pth", "test_vit").positions == "resampled from 14 x 14 to 10 x 10"
    expected = timm.create_model("test_vit", **args)
    adapted = timm.models.vision_transformer.checkpoint_filter_fn(dict(theirs.state_dict()), expected)
    expected.load_state_dict(adapted)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], msg=name)
    if prefix:
        encoder = encoders.load(f"weights:{tmp_path / 'mae.pth'}@test_vit", UNUSED, 0)
        assert encoder.provenance.input is not None
        assert encoder.provenance.input["positions"] == "resampled from 14 x 14 to 10 x 10"
        assert "position embeddings resampled" in caplog.text


HALF = ((0.5,) * 3, (0.5,) * 3)  # what timm's own weights of test_vit and vit_base_patch16_224 were trained with


@pytest.mark.parametrize("name", [*VITS, "timm's classifier", "timm's classifier under state_dict"])
def test_images_are_normalised_as_the_authors_of_the_weights_did(name: str, vit: nn.Module, tmp_path: Path) -> None:
    head = {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    own: dict[str, Callable[[Weights], Any]] = {
        "timm's classifier": lambda w: {**w, **head},
        "timm's classifier under state_dict": lambda w: {"state_dict": {**w, **head}, "arch": "test_vit"},
    }
    torch.save({**VITS, **own}[name](vit.state_dict()), tmp_path / "x.pth")
    encoder = encoders.load(f"weights:{tmp_path / 'x.pth'}@test_vit", UNUSED, 0)
    expected = HALF if name in own else (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    assert (encoder.mean, encoder.std) == expected
    said = encoder.provenance.input
    assert said is not None
    assert (tuple(said["mean"]), tuple(said["std"])) == expected
    assert said["statistics"] == ("timm's" if name in own else "ImageNet's")


class Danger:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/ssl_cls_was_run"),)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(pickle.dumps(Danger())), "can run code"),
        (lambda path: torch.save({"x": torch.zeros(1)}, path, _use_new_zipfile_serialization=False), "can run code"),
        (lambda path: torch.save({"x": torch.zeros(1), "y": Danger()}, path), "not weights alone"),
        (lambda path: path.write_bytes(b""), "can run code"),
        (lambda path: torch.save({"epoch": 3}, path), "no tensors"),
        (lambda path: torch.save([1, 2], path), "no tensors"),
    ],
)
def test_files_that_could_run_code_never_do(write: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    write(tmp_path / "x.pth")
    with pytest.raises(UserError, match=said) as refused:
        layouts.read(tmp_path / "x.pth")
    assert refused.value.fix
    assert not Path("/tmp/ssl_cls_was_run").exists()


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(100)}, tmp_path / "x.safetensors")
    torch.save({"x": torch.zeros(100)}, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-90])
        with pytest.raises(UserError):
            layouts.read(path)
