"""What a recipe comes to; those whose parts do not fit each other are refused before anything starts."""

import pytest
import torch

from ssl_cls import config, plan
from ssl_cls.data import catalog
from ssl_cls.errors import UserError

RECIPE = """
name: misfit
data: {source: digits}
backbone: {name: vit_tiny_patch16_224, args: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}, pooling: cls}
method: {name: dino, head: {hidden_dim: 8, bottleneck_dim: 8, prototypes: 16}}
optim: {lr: 1.0e-3}
train: {epochs: 1, batch_size: 32}
"""


@pytest.mark.parametrize(("micro_batch", "ranks", "parts"), [(256, 1, 1), (128, 2, 1), (64, 2, 2)])
def test_the_rate_is_that_of_the_global_batch_however_it_is_split(  # X4
    tmp_path, micro_batch: int, ranks: int, parts: int
) -> None:
    (tmp_path / "split.yaml").write_text(RECIPE)
    split = ["optim={base_lr: 0.3}", "train.batch_size=256", f"train.micro_batch_size={micro_batch}"]
    recipe = config.load(tmp_path / "split.yaml", split)
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    planned = plan.make_plan(recipe, source, ranks)
    assert (planned.micro_batch_size, planned.micro_batches) == (micro_batch, parts)
    assert planned.peak_lr == 0.3


def refusal(tmp_path, *overrides: str) -> UserError:
    (tmp_path / "misfit.yaml").write_text(RECIPE)
    recipe = config.load(tmp_path / "misfit.yaml", overrides)
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    with pytest.raises(UserError) as error:
        plan.build_method(recipe, source, plan.make_plan(recipe, source, 1))
    return error.value


@pytest.mark.parametrize(
    ("views", "where", "what"),
    [
        ("[{count: 2}, {kind: local, size: 32}]", "views", "local views are larger than the global ones, 28 pixels"),
        ("[{count: 2}, {kind: local, size: 14}]", "views", "14 pixels are not a whole number of 4-pixel patches"),
        ("[{count: 2}, {kind: local, size: 3}]", "views", "3 pixels are not a whole number"),
        ("[{size: 28}, {size: 32}]", "views", "global views need one size, not [28, 32]"),
    ],
)
def test_views_that_do_not_fit_the_backbone_or_each_other(tmp_path, views: str, where: str, what: str) -> None:
    error = refusal(tmp_path, f"views={views}")
    assert error.where == where
    assert what in error.what


def test_an_architecture_of_one_size_takes_no_local_views(tmp_path) -> None:
    swin = "backbone={name: swin_tiny_patch4_window7_224, args: {embed_dim: 12, depths: [1], num_heads: [1]}}"
    assert refusal(tmp_path, swin).where == "backbone.name"


@pytest.mark.parametrize("backbone", ["vit", "swin"])
def test_only_networks_for_any_size_are_judged_at_another_size_than_they_were_trained_at(tmp_path, backbone) -> None:
    swin = ["backbone={name: swin_tiny_patch4_window7_224, args: {embed_dim: 12, depths: [1], num_heads: [1]}}"]
    misfit = ["views=[{count: 2, size: 24}]", "backbone.input_size=28"]
    error = refusal(tmp_path, *(swin if backbone == "swin" else []), *misfit)
    assert error.where == {"vit": "backbone.input_size", "swin": "backbone.name"}[backbone]


def test_views_larger_than_what_the_encoder_is_judged_at_are_a_mistake(tmp_path) -> None:
    error = refusal(tmp_path, "data.size=32", "backbone.input_size=28")
    assert error.where == "backbone.input_size"
    assert "views of 32 pixels are larger than the 28" in error.what


def test_an_encoder_is_for_the_size_it_is_judged_at_not_that_of_its_views(tmp_path) -> None:
    (tmp_path / "small.yaml").write_text(
        "name: small\ndata: {source: digits, size: 24}\nbackbone: {name: resnet_small, input_size: 28}\n"
        "method: {name: simclr}\noptim: {lr: 0.001}\ntrain: {epochs: 1, batch_size: 32}\n"
    )
    recipe = config.load(tmp_path / "small.yaml")
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    planned = plan.make_plan(recipe, source, 1)
    assert planned.input_size == plan.input_size(recipe) == 28
    stream = plan.build_stream(recipe, source, planned, torch.device("cpu"), 0, 1, False)
    (batch,) = next(iter(stream.batches(0, 1)))
    assert [view.shape[2:] for view in batch.views["global"]] == [(24, 24)] * 2
    plan.build_method(recipe, source, planned)
