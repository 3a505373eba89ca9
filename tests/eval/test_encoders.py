import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from eval import encoders
from eval.base import EvalData
from eval.data import open_data, overridden, shown
from ssl_cls import config, export
from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError

RECIPE = """
name: tiny
data: {source: digits}
backbone: {name: resnet_small, pooling: avg2x2, args: {channels: [4, 8]}}
method: {name: simclr}
optim: {name: adamw, lr: 1.0e-3}
train: {epochs: 1, batch_size: 64}
"""


@pytest.fixture(scope="module")
def data() -> EvalData:
    return open_data(DataConfig("digits"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, as pretraining leaves it."""
    folder = tmp_path / "tiny-seed3"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    torch.manual_seed(3)
    backbone = build(config.load(folder / "recipe.yaml").backbone, 1, 28)
    provenance: dict[str, Any] = {
        "run": folder.name, "method": "simclr", "backbone": "resnet_small channels=(4, 8)", "seed": 3,
        "dataset": "digits/train", "images_seen": 640, "view_forwards": 1280, "seconds": 1.5,
    }  # fmt: skip
    export.save_encoder(backbone, folder / "encoder", input_size=28, mean=(0.3,), std=(0.4,), provenance=provenance)
    return folder


def test_a_run_is_what_it_exported(run: Path, data: EvalData) -> None:
    encoder = encoders.load(str(run), data, 0)
    assert (encoder.input_size, encoder.channels, encoder.mean, encoder.std) == (28, 1, (0.3,), (0.4,))
    assert encoder.provenance.view_forwards == 1280
    assert encoder.provenance.seed == 3
    assert encoder.out == run / "eval"
    assert not encoder.network.training
    images = torch.rand(2, 1, 28, 28)
    exported = timm.create_model(f"local-dir:{run / 'encoder'}", pretrained=True, num_classes=0).eval()
    exported.to(memory_format=torch.contiguous_format)
    encoder.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.inference_mode():
        theirs = exported.forward_features(images)
        assert torch.equal(encoder.network.model.forward_features(images), theirs)  # type: ignore[operator, union-attr]
        pooled = torch.nn.functional.adaptive_avg_pool2d(theirs, 2).flatten(1)
        torch.testing.assert_close(encoder.network.features(images), pooled)  # type: ignore[operator]


def test_a_run_that_may_have_seen_the_test_images_is_refused(run: Path, data: EvalData) -> None:
    """Labels given after a run move images between splits: what it trained on is not what `train` is now."""
    path = run / "encoder" / "provenance.json"
    saved = json.loads(path.read_text())
    for images in data.trainable:
        path.write_text(json.dumps({**saved, "images": images}))
        assert encoders.load(str(run), data, 0).provenance.images == images
    path.write_text(json.dumps({**saved, "images": "0" * 64}))
    with pytest.raises(UserError, match="no longer what this run was trained on"):
        encoders.load(str(run), data, 0)
    assert encoders.load(str(run), replace(data, name="others"), 0)  # no split of those was ever its own


def test_random_has_the_run_s_architecture_and_size_and_the_weights_it_began_with(run: Path, data: EvalData) -> None:
    trained, fresh = encoders.load(str(run), data, 0), encoders.load(f"random:{run}", data, 3)
    assert fresh.sha256 == trained.sha256  # this run was exported as it was initialised, from seed 3
    assert (fresh.input_size, fresh.provenance.method) == (28, "random")
    other = encoders.load(f"random:{run}", data, 4)
    assert other.sha256 != fresh.sha256
    assert other.out != fresh.out
    recipe = encoders.load(f"random:{run / 'recipe.yaml'}", data, 3)
    assert (recipe.sha256, recipe.provenance) == (fresh.sha256, fresh.provenance)


def test_random_is_judged_at_the_size_that_the_recipe_names_not_at_that_of_its_views(
    tmp_path: Path, data: EvalData
) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: r\ndata: {source: digits}\nbackbone: {name: resnet_small, input_size: 28}\nmethod: {name: simclr}\n"
        "views: [{count: 2, size: 24}]\noptim: {lr: 0.001}\ntrain: {epochs: 1, batch_size: 32}\n"
    )
    assert encoders.load(f"random:{tmp_path / 'r.yaml'}", data, 0).input_size == 28


def test_random_weights_leave_torch_s_randomness_alone(data: EvalData) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    encoders.load("random:resnet_small", data, 1)
    assert torch.equal(torch.rand(3), expected)


def test_pixels_are_the_image_itself(data: EvalData) -> None:
    encoder = encoders.load("pixels", data, 0)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(encoder.network.features(images), images.flatten(1))  # type: ignore[operator]
    assert (encoder.input_size, encoder.mean, encoder.std) == (8, (0.0,), (1.0,))


def test_an_unfinished_run_says_how_to_resume(run: Path, data: EvalData) -> None:
    shutil.rmtree(run / "encoder")
    with pytest.raises(UserError, match="not finished") as refused:
        encoders.load(str(run), data, 0)
    assert f"tools/pretrain.py {run / 'recipe.yaml'}" in refused.value.fix


def test_an_encoder_folder_and_its_weights_file_are_encoders(run: Path, data: EvalData) -> None:
    whole = encoders.load(str(run), data, 0)
    for spec in (run / "encoder", run / "encoder" / "model.safetensors"):
        encoder = encoders.load(str(spec), data, 0)
        assert encoder.sha256 == whole.sha256
        assert encoder.provenance.method == "weights"


def test_a_folder_that_timm_saved_with_its_classifier_is_an_encoder(tmp_path: Path, data: EvalData) -> None:
    torch.manual_seed(0)
    args = {"img_size": 28, "patch_size": 7, "embed_dim": 24, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **args).eval()
    timm.models.save_for_hf(model, str(tmp_path / "vit"), model_args=args, safe_serialization=True)
    encoder = encoders.load(str(tmp_path / "vit"), data, 0)
    images = torch.rand(2, 3, 28, 28)
    with torch.inference_mode():
        assert torch.equal(encoder.network.features(images), model.forward_features(images)[:, 0])  # type: ignore[operator]
    assert shown(data, encoder.channels).train.channels == 3


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_mambaout", "test_byobnet"])
def test_a_timm_encoder_gives_what_timm_s_model_gives_without_a_classifier(
    name: str, data: EvalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm:NAME, with fresh weights for those that are fetched, and the same from a folder that timm saved."""
    torch.manual_seed(0)
    make = timm.create_model
    model = make(name, num_classes=5).eval()
    for parameter in model.parameters():  # norms that do something
        parameter.data += 0.05 * torch.randn_like(parameter)
    timm.models.save_for_hf(model, str(tmp_path / name), safe_serialization=True)
    model.reset_classifier(0)
    images = torch.rand(2, *model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        expected = model(images)
    saved = encoders.load(str(tmp_path / name), data, 0)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: model)
    fetched = encoders.load(f"timm:{name}", data, 0)
    for encoder in (fetched, saved):
        with torch.inference_mode():
            found = encoder.network.features(images)  # type: ignore[operator]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert encoder.provenance.input is not None
        assert encoder.provenance.input["pooling"] == encoder.network.pooling
    avg = fetched.network.pool(fetched.network.outputs(images, (-1,))[0], "avg")  # type: ignore[operator]
    assert avg.shape == (2, model.num_features)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "no encoder 'nowhere'"),
        ("timm:resnet5", r"did you mean resnet50"),
        ("timm:nonsense-model", "no model named"),
        ("random:resnet_smal", r"did you mean resnet_small"),
        ("random:", "no backbone named"),
        ("weights.pth", "no encoder"),
        ("weights:nowhere.pth", "what architecture"),
        ("weights:nowhere.pth@resnet5", "did you mean resnet5"),
        ("weights:nowhere.pth@resnet18", "no such weights file"),
        ("rndom:resnet50", "no encoder"),
    ],
)
def test_what_is_no_encoder_is_refused_with_what_to_do(spec: str, message: str, data: EvalData) -> None:
    with pytest.raises(UserError) as refused:
        encoders.load(spec, data, 0)
    assert __import__("re").search(message, f"{refused.value.what} {refused.value.fix}")
    assert refused.value.fix


def test_weights_alone_are_refused(tmp_path: Path, data: EvalData) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="what architecture"):
        encoders.load(str(tmp_path / "model.safetensors"), data, 0)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="what architecture") as refused:
        encoders.load(str(tmp_path / "other.safetensors"), data, 0)
    assert f"weights:{tmp_path / 'other.safetensors'}@ARCHITECTURE" in refused.value.fix


def test_a_damaged_provenance_is_refused(run: Path, data: EvalData) -> None:
    for text in ("{", "[]", json.dumps({"run": "x"})):
        (run / "encoder" / "provenance.json").write_text(text)
        with pytest.raises(UserError, match="where it comes from"):
            encoders.load(str(run), data, 0)


def test_data_are_the_recipe_s_unless_overridden(run: Path) -> None:
    recipe = encoders.recipe_of(f"random:{run}")
    assert recipe is not None
    assert recipe.data.source == "digits"
    assert encoders.recipe_of("pixels") is None
    changed = overridden(recipe.data, ["data.source=folder", "data.path=/images"])
    assert (changed.source, changed.path) == ("folder", "/images")
    assert overridden(changed, ["data.window=[0,4095]"]).window == (0.0, 4095.0)
    assert overridden(changed, ["data.source=digits"]).path is None


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("data.sorce=digits", "data.source"),
        ("data.source=digit", "digits"),
        ("train.epochs=3", "data.source=NAME"),
        ("data.window=wide", "data.source=folder"),
        ("data.window=7", "data.source=folder"),
        ("data.window=[9,3]", "data.source=folder"),
    ],
)
def test_other_overrides_are_refused(override: str, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        overridden(DataConfig(), [override])
    assert fix in refused.value.fix


def test_data_without_labels_cannot_judge(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(40):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match="no labels"):
        open_data(DataConfig("folder", str(tmp_path)))


def test_backbone_label_is_the_recipe_s(run: Path, data: EvalData) -> None:
    label = BackboneConfig("resnet_small", args={"channels": [4, 8]}).label
    assert encoders.load(f"random:{run}", data, 0).provenance.backbone == label
