"""Heat over the images that a kept classifier was given."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval import classifier
from eval.classifier import Classifier, Trained
from eval.report import looks
from ssl_cls.augment.augment import Framing
from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.errors import UserError

CONFIGS = {
    "Grad-CAM": BackboneConfig("resnet_small", "avg", {"channels": [8, 16]}),
    "attention": BackboneConfig(
        "vit_tiny_patch16_224", "avg", {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    ),
}


def decoded(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))))


@pytest.mark.parametrize("how", CONFIGS)
def test_the_first_image_of_each_class_and_the_heat_of_the_answer(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    test = catalog.open(DataConfig(source="digits"), "test")
    network = build(CONFIGS[how], 1, 8)
    model = Classifier(network, 10, torch.zeros(1, 1, 8, 8)).eval()
    made = Trained(model, [str(k) for k in range(10)], 8, 1, test.mean, test.std, Framing(1.0), "softmax")
    classifier.save(made, tmp_path / "c", {"run": "x"})
    picture = looks.looks("simclr", tmp_path / "c", test)
    assert picture.title == f"simclr: {how}"
    above, below = picture.strips
    labels = test.labels(torch.arange(len(test))).tolist()
    images = looks._shown(made, test, torch.tensor([labels.index(k) for k in range(7)]))
    with torch.no_grad():
        answers = model(images).argmax(1).tolist()
    for label, image, warm, answer in zip(range(7), above, below, answers, strict=True):
        index = labels.index(label)
        assert image.alt == f"test image {index}: {label}"
        assert warm.alt == f"test image {index}: {label}, answered {answer}"
        assert warm.mark == ("same" if answer == label else "other")
        np.testing.assert_allclose(decoded(image.uri).astype(float), test.pixels(torch.tensor([index]))[0, 0], atol=1)
        assert decoded(warm.uri).shape == (8, 8, 3)
    assert len({warm.uri for warm in below}) > 1


def test_much_heat_covers_an_image_and_none_leaves_it() -> None:
    image = torch.full((1, 3, 2, 2), 0.5)
    heat = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    over = looks._over(image, heat)[0]
    assert over[:, 0, 0].tolist() == pytest.approx([0.85 * 0.5] * 3, abs=0.01)  # inferno begins at black
    assert over[0, 0, 1] > over[2, 0, 1] + 0.1  # and ends at yellow
    assert ((over >= 0) & (over <= 1)).all()


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="classifier"):
        looks.looks("x", tmp_path, catalog.open(DataConfig(source="digits"), "test"))
