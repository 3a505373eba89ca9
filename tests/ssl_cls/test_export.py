import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from ssl_cls import export
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.errors import UserError

VIT = BackboneConfig("vit_tiny_patch16_224", "avg2x2", {"patch_size": 7, "embed_dim": 24, "depth": 2, "num_heads": 2})
RESNET = BackboneConfig("resnet_small", "avg2x2", {"channels": [4, 8]})


def _backbone(config: BackboneConfig) -> Backbone:
    torch.manual_seed(0)
    backbone = build(config, 1, 28).train()
    for _ in range(3):
        backbone(torch.randn(8, 1, 28, 28))  # so that batch-norm statistics are not those of a fresh model
    return backbone.eval()


def _save(backbone: Backbone, folder: Path) -> None:
    export.save_encoder(backbone, folder, input_size=28, mean=(0.3,), std=(0.4,), provenance={"run": "x"})


@pytest.mark.parametrize("config", [VIT, RESNET])
def test_what_was_saved_is_loaded_bit_for_bit(config: BackboneConfig, tmp_path: Path) -> None:
    backbone, images = _backbone(config), torch.randn(4, 1, 28, 28)
    _save(backbone, tmp_path / "encoder")
    loaded, saved = export.load_encoder(tmp_path / "encoder")
    with torch.inference_mode():
        assert torch.equal(loaded.eval().features(images), backbone.features(images))
    assert export.sha256(loaded) == export.sha256(backbone)
    assert saved["pretrained_cfg"]["input_size"] == [1, 28, 28]
    assert (saved["pretrained_cfg"]["mean"], saved["pretrained_cfg"]["std"]) == ([0.3], [0.4])
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    _save(loaded, tmp_path / "again")  # and can be saved again
    assert export.load_encoder(tmp_path / "again")[1] == saved


LOAD = """
import sys, timm, torch
from safetensors.torch import load_file
{imports}
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True, num_classes=0).eval()
case = load_file(sys.argv[2])
torch.set_num_threads(1)
with torch.inference_mode():
    assert torch.equal(model.forward_features(case["images"]), case["features"])
assert not model.pretrained_cfg["fixed_input_size"] or model.patch_embed.img_size == (28, 28)
assert model.pretrained_cfg["mean"] == [0.3] or model.pretrained_cfg["mean"] == (0.3,)
assert {ours} == any(name.partition(".")[0] in ("ssl_cls", "eval") for name in sys.modules)
"""


@pytest.mark.parametrize(("config", "ours"), [(VIT, False), (RESNET, True)])
def test_timm_alone_rebuilds_it_bit_for_bit(config: BackboneConfig, ours: bool, tmp_path: Path) -> None:
    backbone, images = _backbone(config), torch.randn(3, 1, 28, 28)
    _save(backbone, tmp_path / "encoder")
    backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        save_file(
            {"images": images, "features": backbone.model.forward_features(images).contiguous()},
            tmp_path / "case",
        )  # type: ignore[operator]
    torch.set_num_threads(threads)
    script = LOAD.format(imports="import ssl_cls" if ours else "", ours=ours)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "encoder"), str(tmp_path / "case")],
        cwd=root if ours else tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_digest_is_of_weights_not_of_their_layout() -> None:
    backbone = _backbone(RESNET)
    digest = export.sha256(backbone)
    assert export.sha256(backbone.to(memory_format=torch.channels_last)) == digest  # type: ignore[call-overload]
    statistic = backbone.model.bn1.running_mean  # type: ignore[union-attr]
    assert isinstance(statistic, torch.Tensor)
    statistic[0] = statistic[0].nextafter(torch.tensor(9.0))
    assert export.sha256(backbone) != digest


@pytest.mark.parametrize("damage", ["missing", "renamed", "reshaped", "extra", "truncated", "json", "keys", "model"])
def test_damaged_folders_are_refused(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    _save(_backbone(RESNET), folder)
    weights, saved = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    name = "conv1.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "renamed":
        weights["module." + name] = weights.pop(name)
    elif damage == "reshaped":
        weights[name] = weights[name].flatten()
    elif damage == "extra":
        weights["other"] = torch.zeros(1)
    elif damage == "keys":
        del saved["pretrained_cfg"]
    elif damage == "model":
        saved["architecture"] = "resnet_tiny"
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text("{" if damage == "json" else json.dumps(saved))
    if damage == "truncated":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError):
        export.load_encoder(folder)


def test_an_interrupted_save_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, backbone = tmp_path / "encoder", _backbone(RESNET)
    _save(backbone, folder)
    before = (folder / "config.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        _save(backbone, folder)
    assert (folder / "config.json").read_bytes() == before
    export.load_encoder(folder)


def test_timm_s_own_loader_reads_the_config(tmp_path: Path) -> None:
    _save(_backbone(VIT), tmp_path / "encoder")
    model = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0)
    resolved = timm.data.resolve_model_data_config(model)
    assert resolved["input_size"] == (1, 28, 28)
    assert (resolved["crop_pct"], tuple(resolved["mean"]), tuple(resolved["std"])) == (1.0, (0.3,), (0.4,))
