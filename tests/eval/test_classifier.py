import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from eval import classifier
from eval.base import Encoder, EvalData, Provenance
from eval.classifier import Classifier, Trained
from eval.explain import heatmaps
from eval.inference import logits, trained
from ssl_cls import export
from ssl_cls.augment.augment import Framing
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.data.arrays import Arrays
from ssl_cls.errors import UserError

VIT = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
CONFIGS = {
    "vit-cls": BackboneConfig("vit_tiny_patch16_224", "cls", VIT),
    "vit-avg": BackboneConfig("vit_tiny_patch16_224", "avg", VIT),
    "vit-avg2x2": BackboneConfig("vit_tiny_patch16_224", "avg2x2", {**VIT, "patch_size": 3}),
    "cnn-avg": BackboneConfig("resnet_small", "avg", {"channels": [8, 16]}),
    "cnn-avg2x2": BackboneConfig("resnet_small", "avg2x2", {"channels": [8, 16]}),
    "convnext": BackboneConfig("convnext_atto", "avg", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
}
NAMES = ["cat", "=dog", "Fußball"]


def make(config: BackboneConfig, channels: int = 1) -> Trained:
    torch.manual_seed(0)
    size = 32 if config.name == "convnext_atto" else 12
    network = build(config, channels, size).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for _ in range(3):
            network(torch.randn(8, channels, size, size))
    model = Classifier(network, 3, torch.zeros(1, channels, size, size)).eval()
    return Trained(model, NAMES, size, channels, (0.3,) * channels, (0.2,) * channels, Framing(), "softmax")


@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_saved_answers_bit_for_bit_the_same(name: str, tmp_path: Path) -> None:
    made = make(CONFIGS[name])
    plain = classifier.save(made, tmp_path / "c", {"run": "x"})
    assert plain == (name in ("vit-cls", "vit-avg", "cnn-avg"))
    loaded = classifier.load(tmp_path / "c")
    images = torch.randn(4, 1, made.input_size, made.input_size)
    with torch.inference_mode():
        assert torch.equal(loaded.model(images), made.model(images))
    assert replace(loaded, model=made.model) == made
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("name", ["vit-cls", "vit-avg", "cnn-avg"])
def test_timm_loads_it_with_its_head_and_class_names(name: str, tmp_path: Path) -> None:
    made = make(CONFIGS[name])
    classifier.save(made, tmp_path / "c", {})
    theirs = timm.create_model(f"local-dir:{tmp_path / 'c'}", pretrained=True).eval()
    images = torch.randn(4, 1, 12, 12)
    made.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.inference_mode():
        if name == "cnn-avg":  # its mean over the map is another kernel than ours
            torch.testing.assert_close(theirs(images), made.model(images), rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(theirs(images), made.model(images))
    assert theirs.pretrained_cfg["label_names"] == NAMES
    assert timm.data.resolve_model_data_config(theirs)["crop_pct"] == 0.875


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_model_that_timm_made_by_itself_becomes_a_plain_classifier(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Backbone(timm.create_model(name, num_classes=0), "cls" if name == "test_vit" else "avg").eval()
    model = Classifier(network, 3, torch.zeros(1, 3, 160, 160)).eval()
    made = Trained(model, NAMES, 160, 3, (0.3,) * 3, (0.2,) * 3, Framing(), "softmax")
    assert classifier.save(made, tmp_path / "c", {})
    theirs = timm.create_model(f"local-dir:{tmp_path / 'c'}", pretrained=True).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), model(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(classifier.load(tmp_path / "c").model(images), model(images))


def test_without_its_head_every_classifier_is_the_encoder(tmp_path: Path) -> None:
    made = make(CONFIGS["cnn-avg2x2"])
    classifier.save(made, tmp_path / "c", {})
    network, _ = export.load_encoder(tmp_path / "c")
    assert export.sha256(network.model) == export.sha256(made.model.network.model)  # type: ignore[arg-type]
    theirs = timm.create_model(f"local-dir:{tmp_path / 'c'}", pretrained=True, num_classes=0)
    assert export.sha256(theirs) == export.sha256(network.model)


@pytest.mark.parametrize("damage", ["no names", "no head", "an encoder", "nothing", "two"])
def test_what_is_no_classifier_is_refused(damage: str, tmp_path: Path) -> None:
    made, folder = make(CONFIGS["cnn-avg2x2"]), tmp_path / "run" / "classifier" / "linear-v1"
    classifier.save(made, folder, {})
    assert classifier.load(tmp_path / "run").class_names == NAMES  # the only one of a run is meant
    if damage == "no names":
        config = json.loads((folder / "config.json").read_text())
        del config["label_names"]
        (folder / "config.json").write_text(json.dumps(config))
    elif damage == "no head":
        (folder / "head.safetensors").unlink()
    elif damage == "two":
        classifier.save(made, folder.with_name("finetune-v1-n600-d0"), {})
    path = {"nothing": tmp_path / "elsewhere", "an encoder": tmp_path / "r2"}.get(damage, tmp_path / "run")
    if damage == "an encoder":
        export.save_encoder(
            made.model.network, path / "encoder", input_size=12, mean=(0.3,), std=(0.2,), provenance={}  # type: ignore[arg-type]
        )  # fmt: skip
    with pytest.raises(UserError) as refused:
        classifier.load(path)
    assert refused.value.fix
    if damage == "two":
        assert "linear-v1" in refused.value.fix


def test_five_crops_are_averaged_with_the_centre_among_them() -> None:
    made = make(CONFIGS["cnn-avg2x2"])
    images = torch.zeros(3, 1, 12, 12, dtype=torch.uint8)
    images[:, :, 4:8, 4:8] = torch.tensor([0, 100, 200], dtype=torch.uint8)[:, None, None, None]
    source = Arrays("x/test", images, torch.tensor([0, 1, 2]), NAMES, (0.3,), (0.2,))
    encoder = Encoder(
        made.model.network, 12, 1, (0.3,), (0.2,), "", Provenance("x", "random", "", 0), Path("none")
    )  # fmt: skip
    five = logits(made.model, encoder, source, torch.device("cpu"), "multi_crop")
    each = []
    for dy, dx in ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        moved = Arrays("x/test", images.roll((dy, dx), (2, 3)), torch.tensor([0, 1, 2]), NAMES, (0.3,), (0.2,))
        each.append(logits(made.model, encoder, moved, torch.device("cpu")))
    torch.testing.assert_close(five, torch.stack(each).mean(0))
    data = EvalData("x", source, source, source, 3)
    assert trained(made.model, encoder, data, None).framing.crop == 1.0  # array images are shown whole


def test_grad_cam_finds_the_only_pixels_that_matter() -> None:
    made = make(CONFIGS["cnn-avg2x2"])
    images = torch.zeros(2, 1, 12, 12)
    with torch.no_grad():
        base = made.model(images)
        images[0, :, :4, :4] = 3.0
    maps = heatmaps(made.model, images, made.model(images).argmax(1))
    assert maps.shape == (2, 12, 12)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert base.requires_grad is False


def test_grad_cam_is_the_weighted_map_of_its_definition() -> None:
    made = make(CONFIGS["cnn-avg"])
    network = made.model.network
    images = torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        maps = network.model.forward_features(images)  # type: ignore[union-attr, operator]
        area = maps.shape[2] * maps.shape[3]
        # averaged, then a linear head: the gradient is the head's weight over the area
        expected = torch.einsum("bchw,c->bhw", maps, made.model.head.weight[1]).relu() / area
    got = heatmaps(made.model, images, torch.tensor([1, 1]))
    wide = torch.nn.functional.interpolate(expected[:, None], size=12, mode="bilinear", align_corners=False)[:, 0]
    low, high = wide.amin((1, 2), keepdim=True), wide.amax((1, 2), keepdim=True)
    torch.testing.assert_close(got, (wide - low) / (high - low).clamp(min=1e-12), rtol=1e-4, atol=1e-5)


def test_attention_is_what_the_blocks_compute_themselves() -> None:
    """timm's own unfused attention, caught at its dropout, against ours."""
    made = make(CONFIGS["vit-cls"])
    images = torch.randn(2, 1, 12, 12)
    block = made.model.network.model.blocks[-1].attn  # type: ignore[union-attr, index]
    block.fused_attn = False
    caught: list[torch.Tensor] = []
    hook = block.attn_drop.register_forward_hook(lambda module, given, out: caught.append(out))
    with torch.no_grad():
        made.model(images)
    hook.remove()
    grid = caught[0].mean(1)[:, 0, 1:].reshape(2, 1, 3, 3)
    wide = torch.nn.functional.interpolate(grid, size=12, mode="bilinear", align_corners=False)[:, 0]
    low, high = wide.amin((1, 2), keepdim=True), wide.amax((1, 2), keepdim=True)
    torch.testing.assert_close(heatmaps(made.model, images, torch.zeros(2).long()), (wide - low) / (high - low))
    rollout = heatmaps(make(CONFIGS["vit-avg"]).model, images, torch.zeros(2).long())
    assert rollout.shape == (2, 12, 12)
    assert not torch.allclose(rollout[0], rollout[1])


def test_maps_with_channels_last_are_explained_and_attention_of_another_kind_is_refused() -> None:
    swin = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
    beit = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    images, classes = torch.rand(2, 3, 64, 64), torch.tensor([0, 1])
    drawn = Classifier(build(BackboneConfig("swin_tiny_patch4_window7_224", "avg", swin), 3, 64), 3, images[:1])
    with torch.no_grad():
        assert heatmaps(drawn, images, classes).shape == (2, 64, 64)
    other = Classifier(build(BackboneConfig("beit_base_patch16_224", "avg", beit), 3, 64), 3, images[:1])
    with pytest.raises(UserError, match="of a kind that is not drawn"):
        heatmaps(other, images, classes)


def test_a_head_on_timm_s_own_pooling_is_a_plain_timm_folder_and_comes_back(tmp_path: Path) -> None:
    config = CONFIGS["convnext"]
    made = make(config, 3)
    network = Backbone(made.model.network.model, "timm")  # type: ignore[arg-type]
    model = Classifier(network, 3, torch.zeros(1, 3, 32, 32)).eval()
    assert classifier.save(replace(made, model=model), tmp_path / "c", {"run": "x"})
    images = torch.randn(2, 3, 32, 32)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'c'}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(classifier.load(tmp_path / "c").model(images), model(images))
        torch.testing.assert_close(theirs(images), model(images), rtol=1e-4, atol=1e-5)
