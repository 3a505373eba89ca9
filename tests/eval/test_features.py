from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tvf

from eval import encoders, features
from eval.base import Context, Encoder, Provenance
from eval.channels import seen_with
from eval.draws import Pool
from eval.features import batches, extract
from ssl_cls import export
from ssl_cls.augment.augment import Framing
from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.data import catalog
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError


class Mean(nn.Module):
    """Two numbers an image, which tell which image it was."""

    def features(self, images: Tensor) -> Tensor:
        return torch.stack((images.mean((1, 2, 3)), images.amax((1, 2, 3))), 1)


def _source(n: int, channels: int = 1, side: int = 8) -> Arrays:
    images = torch.randint(0, 256, (n, channels, side, side), generator=torch.Generator().manual_seed(n)).to(
        torch.uint8
    )
    return Arrays("noise/train", images, torch.arange(n) % 2, ["a", "b"], (0.5,) * channels, (0.25,) * channels)


def _encoder(network: nn.Module, channels: int = 1, size: int = 8) -> Encoder:
    come_from = Provenance("x", "random", "", 0)
    return Encoder(network, size, channels, (0.5,) * channels, (0.25,) * channels, "00", come_from, Path("unused"))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(torch.device("cpu"), cache=tmp_path / "cache")


@pytest.mark.parametrize("n", [1, 249, 250, 251, 503])
def test_e8_every_image_once_and_in_order(n: int, context: Context) -> None:
    source = _source(n)
    got = extract(_encoder(Mean()), source, context)
    images = (source.pixels(torch.arange(n)).double() / 255 - 0.5) / 0.25
    expected = torch.stack((images.mean((1, 2, 3)), images.amax((1, 2, 3))), 1)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=0)
    assert [path.suffix for path in context.cache.iterdir()] == [".npy"]


def test_x14_e9_the_network_is_left_as_it_was(context: Context) -> None:
    torch.manual_seed(0)
    network = build(BackboneConfig("resnet_small", pooling="avg2x2", args={"channels": (4, 8)}), 1, 28).train()
    before = export.sha256(network)
    extract(_encoder(network, size=28), _source(30), context)
    assert export.sha256(network) == before
    assert all(module.training for module in network.modules())


VIT = {"patch_size": 7, "embed_dim": 24, "depth": 2, "num_heads": 2, "drop_path_rate": 0.5}


@pytest.mark.parametrize(
    "config",
    [
        BackboneConfig("resnet_small", pooling="avg2x2", args={"channels": (4, 8)}),
        BackboneConfig("vit_tiny_patch16_224", pooling="cls", args=VIT),
        BackboneConfig("vit_tiny_patch16_224", pooling="avg2x2", args=VIT),
    ],
    ids=["resnet", "vit-cls", "vit-avg2x2"],
)
def test_e11_features_do_not_depend_on_the_batch(
    config: BackboneConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = build(config, 1, 28)
    found = []
    for size in (250, 7):
        monkeypatch.setattr(features, "_BATCH", size)
        context = Context(torch.device("cpu"), cache=tmp_path / str(size))
        found.append(extract(_encoder(network, size=28), _source(60), context))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("num_ranks", "count"), [(2, 1003), (3, 1003), (5, 250), (3, 1)])
def test_x17_ranks_share_without_gap_or_overlap(
    num_ranks: int, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, network = _source(count), Mean()
    monkeypatch.setattr(features, "_shared_id", lambda context: 7)
    written: list[np.ndarray] = []

    def barrier(context: Context) -> None:
        if context.rank == 0 and not written and any(tmp_path.glob(".shared.npy.*")):
            # rank 0 has made the file: the others do their share now
            written.append(np.zeros(1))
            for rank in range(1, num_ranks):
                features._write(path, _encoder(network), source, replace(context, rank=rank))

    monkeypatch.setattr(Context, "barrier", barrier)
    path = tmp_path / "shared.npy"
    features._write(path, _encoder(network), source, Context(torch.device("cpu"), 0, num_ranks, cache=tmp_path))
    alone = extract(_encoder(network), source, Context(torch.device("cpu"), cache=tmp_path / "alone"))
    assert np.array_equal(np.load(path), alone.numpy())


def test_a_second_call_reads_the_file(context: Context) -> None:
    network = Mean()
    first = extract(_encoder(network), _source(20), context)
    network.features = lambda images: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert torch.equal(extract(_encoder(network), _source(20), context), first)


def test_whatever_changes_features_changes_the_key(context: Context) -> None:
    source, encoder = _source(20), _encoder(Mean())
    pooled = Mean()
    pooled.pooling = "cls"  # type: ignore[assignment]
    variants = [
        (encoder, source),
        (replace(encoder, sha256="01"), source),
        (replace(encoder, input_size=9), source),
        (replace(encoder, mean=(0.4,)), source),
        (replace(encoder, provenance=replace(encoder.provenance, backbone="vit num_heads=2")), source),
        (replace(encoder, network=pooled), source),
        (encoder, _source(21)),
    ]
    keys = [features._key(one, other, context) for one, other in variants]
    assert len(set(keys)) == len(keys)


def test_features_that_are_not_finite_are_refused_and_not_kept(context: Context) -> None:
    class Diverged(Mean):
        def features(self, images: Tensor) -> Tensor:
            found = super().features(images)
            found[3:4] = float("nan")
            return found

    with pytest.raises(UserError, match=r"1 images are not finite, of image 3 first"):
        extract(_encoder(Diverged()), _source(20), context)
    assert list(context.cache.iterdir()) == []


def test_a_failure_leaves_no_file_that_passes_for_whole(context: Context) -> None:
    class Broken(Mean):
        calls = 0

        def features(self, images: Tensor) -> Tensor:
            Broken.calls += 1
            if Broken.calls > 2:
                raise RuntimeError("out of memory")
            return super().features(images)

    with pytest.raises(RuntimeError):
        extract(_encoder(Broken()), _source(600), context)
    assert not list(context.cache.glob("[!.]*"))


def test_grey_is_repeated_and_colour_becomes_luminance() -> None:
    grey, colour = _source(5), _source(5, channels=3)
    index = torch.arange(5)
    assert torch.equal(seen_with(grey, 3).pixels(index), grey.pixels(index).repeat(1, 3, 1, 1))
    ours, theirs = seen_with(colour, 1).pixels(index).int(), tvf.rgb_to_grayscale(colour.pixels(index)).int()
    assert int((ours - theirs).abs().max()) <= 1  # torchvision rounds down, and weighs with .2989
    assert seen_with(colour, 3) is colour
    assert seen_with(grey, 3).fingerprint != grey.fingerprint
    with pytest.raises(UserError, match="4-channel"):
        seen_with(grey, 4)


def test_a_grey_image_looks_the_same_to_a_colour_encoder_and_back() -> None:
    grey = _source(5)
    back = seen_with(seen_with(grey, 3), 1)
    assert torch.equal(back.pixels(torch.arange(5)), grey.pixels(torch.arange(5)))
    (images,) = batches(_encoder(Mean(), channels=3), grey, torch.device("cpu"))
    assert torch.equal(images[:, 0], images[:, 2])


def _folder(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for split, n in (("train", 6), ("val", 4), ("test", 6)):
        for number in range(n):
            path = root / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return root


def test_files_are_cut_to_their_centre(tmp_path: Path, context: Context) -> None:
    source = catalog.open(DataConfig("folder", str(_folder(tmp_path / "images"))), "train")
    (images,) = batches(_encoder(Mean(), channels=3, size=24), source, torch.device("cpu"))
    first = tvf.pil_to_tensor(Image.open(next(iter(sorted((tmp_path / "images/train/a").iterdir())))))
    side = round(min(first.shape[1:]) * 0.875)
    top, left = (first.shape[1] - side) // 2, (first.shape[2] - side) // 2
    expected = tvf.resized_crop(first, top, left, side, side, [24, 24], antialias=True).float() / 255
    assert float((images[0] * 0.25 + 0.5 - expected).abs().mean()) < 2 / 255
    assert len(extract(_encoder(Mean(), channels=3, size=24), source, context)) == len(source) == 6


@pytest.mark.parametrize("pooled", [False, True])  # train and val as one, which labels are drawn from
def test_r9_evaluation_never_replaces_an_image_that_cannot_be_decoded(
    pooled: bool, tmp_path: Path, context: Context
) -> None:
    root = _folder(tmp_path / "images")
    path = next((root / "train").rglob("2.png"))
    path.write_bytes(path.read_bytes()[:2000])
    source = catalog.open(DataConfig("folder", str(root), max_bad_fraction=0.5), "train")
    source = Pool("all", source) if pooled else source
    with pytest.raises(UserError, match=r"(?s)every image.*2\.png"):
        extract(_encoder(Mean(), channels=3), source, context)
    assert not list(context.cache.glob("[!.]*"))


@pytest.mark.parametrize(
    ("crop", "filter_", "mode"),
    [
        (0.875, "bilinear", "center"),
        (0.95, "bicubic", "center"),
        (1.0, "bicubic", "center"),
        (0.9, "bicubic", "squash"),
    ],
)
def test_files_are_framed_as_timm_s_own_evaluation_frames_them(
    crop: float, filter_: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[0:1:150j, 0:1:200j]
    smooth = np.stack([rows, columns, np.sin(9 * rows * columns) / 2 + 0.5], 2)
    for number, turned in enumerate((smooth, smooth.transpose(1, 0, 2), smooth[:150, :150])):
        for split in ("train", "val", "test"):
            path = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((turned * 255).astype(np.uint8)).save(path)
    made = timm.create_model("test_vit", num_classes=0)
    made.pretrained_cfg = {**made.pretrained_cfg, "crop_pct": crop, "interpolation": filter_, "crop_mode": mode}
    made.pretrained_cfg |= {"input_size": (3, 160, 160)}
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: made)
    encoder = encoders.load("timm:test_vit", None, 0)  # type: ignore[arg-type]
    assert encoder.framing == Framing(crop, filter_, mode == "squash")
    said = encoder.provenance.input
    assert said is not None
    assert (said["crop_pct"], said["interpolation"], said["crop_mode"]) == (crop, filter_, mode)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(made.pretrained_cfg))
    source = catalog.open(DataConfig("folder", str(tmp_path / "images")), "train")
    (images,) = batches(encoder, source, torch.device("cpu"))
    for image, path in zip(images, sorted((tmp_path / "images/train").rglob("*.png")), strict=True):
        expected = theirs(Image.open(path))
        assert image.shape == expected.shape
        difference = (image - expected).abs() * 0.5  # of white: both are divided by a deviation of a half
        assert difference.mean() < 1.5 / 255
        assert difference.max() < 16 / 255


def test_the_framing_changes_the_key(context: Context) -> None:
    encoder = _encoder(Mean())
    variants = [encoder, *(replace(encoder, framing=x) for x in (Framing(1.0), Framing(squash=True)))]
    assert len({features._key(one, _source(20), context) for one in variants}) == 3
