"""What every method on pairs of views keeps to."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ssl_cls import config, plan
from ssl_cls.augment import presets
from ssl_cls.augment.view import View
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock
from ssl_cls.config import Recipe
from ssl_cls.data import catalog
from ssl_cls.methods.base import Method
from ssl_cls.methods.byol import BYOLConfig
from ssl_cls.methods.moco import MoCoConfig
from ssl_cls.methods.simclr import SimCLRConfig
from ssl_cls.methods.simsiam import SimSiamConfig

CLOCK = Clock(0, 10, 10)
CONFIGS = {
    "simclr": SimCLRConfig(projector=(16, 8)),
    "moco": MoCoConfig(momentum=0.9, queue=64, norm_splits=4, projector=(16, 8), symmetric=True),
    "byol": BYOLConfig(momentum=0.9, projector=(16, 8), predictor=16),
    "simsiam": SimSiamConfig(projector=(16, 16), predictor=4),
}
EACH = pytest.mark.parametrize("name", CONFIGS)

# X5: what decays beside the backbone's matrices. SGD recipes (MoCo v2, SimSiam) decay everything.
HEADS_THAT_DECAY = {
    "simclr": {"projector.0.weight", "projector.3.weight"},
    "moco": {"projector.0.weight", "projector.0.bias", "projector.2.weight", "projector.2.bias"},
    "byol": {"projector.0.weight", "projector.3.weight", "predictor.0.weight", "predictor.3.weight"},
    "simsiam": {
        *("projector.0.weight", "projector.1.weight", "projector.1.bias", "projector.3.weight"),
        *("predictor.0.weight", "predictor.1.weight", "predictor.1.bias", "predictor.3.weight", "predictor.3.bias"),
    },
}


def tensors(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that can be reached from a module, as a parameter, a buffer, or an attribute of any depth."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors(value, seen)
    elif isinstance(thing, (list, tuple, set)):
        for value in thing:
            yield from tensors(value, seen)
    elif isinstance(thing, nn.Module):
        yield from tensors(vars(thing), seen)


@EACH
def test_every_tensor_that_it_owns_is_in_its_checkpoint(miniature, take_step, name: str) -> None:
    method, batch = miniature(CONFIGS[name])
    take_step(method, batch, CLOCK)
    saved = {x.data_ptr() for x in method.state_dict().values()}
    assert all(x.data_ptr() in saved for x in tensors(method, set()) if x.numel())


@EACH
def test_interrupted_and_restored_it_goes_on_to_the_same_bits(miniature, take_step, name: str) -> None:  # X21
    whole, batch = miniature(CONFIGS[name])
    for number in range(4):
        if number == 2:
            resumed, _ = miniature(CONFIGS[name])
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        take_step(whole, batch, CLOCK.at(number))
    for number in (2, 3):
        take_step(resumed, batch, CLOCK.at(number))
    for (key, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@EACH
def test_a_forward_moves_nothing_but_batch_norm_statistics(miniature, name: str) -> None:
    method, batch = miniature(CONFIGS[name])
    before = copy.deepcopy(method.state_dict())
    method(batch, CLOCK).loss.backward()
    moved = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.rsplit(".", 1)[1] for key in moved} == {"running_mean", "running_var", "num_batches_tracked"}


@EACH
def test_weight_decay_is_on_what_the_paper_says(miniature, name: str) -> None:  # X5
    method: Method = miniature(CONFIGS[name])[0]
    decays = {p for group in method.param_groups() if group.wd_scale for p in group.params}
    backbone = {p for p in decays if p.startswith("backbone.")}
    assert decays - backbone == HEADS_THAT_DECAY[name]
    everything = name in ("moco", "simsiam")
    assert backbone == {
        p for p, value in method.named_parameters() if p.startswith("backbone.") and (everything or value.ndim > 1)
    }


@EACH
def test_what_is_evaluated_is_the_backbone_in_training(miniature, name: str) -> None:
    method, batch = miniature(CONFIGS[name])
    assert method.encoder is method.backbone
    assert all(p.requires_grad for p in method.encoder.parameters())
    assert method(batch, CLOCK).embedding.shape[1] == method.backbone.dim


@EACH
def test_bfloat16_autocast_stays_within_one_percent_and_the_loss_is_float32(miniature, name: str) -> None:  # X20
    method, batch = miniature(CONFIGS[name])
    exact = method(batch, CLOCK).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        rough = method(batch, CLOCK).loss
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact, rel=0.01, abs=0.01)


@EACH
def test_no_batch_norm_is_used_by_two_layers(miniature, name: str) -> None:  # X13
    method, _ = miniature(CONFIGS[name])
    names = [key for key, m in method.named_modules(remove_duplicate=False) if isinstance(m, nn.BatchNorm1d)]
    assert len(names) == len({id(method.get_submodule(key)) for key in names})


@EACH
def test_its_own_views_fit_it_and_what_is_no_pair_is_refused(name: str) -> None:
    config = CONFIGS[name]
    for size, channels in ((28, 1), (32, 3), (224, 3)):
        assert config.check_views(config.views(size, channels)) is None
    assert config.check_views((View(), View(solarize=0.2))) is None
    for wrong in ((View(count=3),), (View(),), (View(), View(kind="local"))):
        assert "two global views" in str(config.check_views(wrong))


def test_byol_alone_has_views_of_two_kinds() -> None:
    first, second = presets.byol(224, 3)
    assert (first.blur, first.solarize, second.blur, second.solarize) == (1.0, 0.0, 0.1, 0.2)
    assert len(presets.moco(224, 3)) == 1


@pytest.mark.parametrize(
    ("name", "settings", "passes"),
    [
        ("simclr", "", 2),
        ("byol", "", 4),
        ("simsiam", "", 2),
        ("moco", ", queue: 64", 2),
        ("moco", ", queue: 64, symmetric: true", 4),
        ("mocov3", "", 4),
        ("dino", "", 8),
    ],
)
def test_the_cost_of_an_image_counts_every_pass_through_a_backbone(name: str, settings: str, passes: int) -> None:
    """What tables give as view forwards, against forward hooks on online network and follower."""
    recipe = config.parse(
        Recipe,
        "name: cost\ndata: {source: digits}\nbackbone: {name: resnet_small, args: {channels: [8, 8]}}\n"
        f"method: {{name: {name}{settings}}}\noptim: {{name: sgd, lr: 0.1}}\ntrain: {{epochs: 1, batch_size: 32}}\n",
        "cost.yaml",
    )
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    planned = plan.make_plan(recipe, source, 1)
    method = plan.build_method(recipe, source, planned)
    seen: list[int] = []
    for module in method.modules():
        if isinstance(module, Backbone):
            module.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    (batch,) = next(plan.build_stream(recipe, source, planned, torch.device("cpu"), 0, 1, False).batches(0, 1))
    method.embed(batch, Clock(0, planned.total_steps, planned.steps_per_epoch))
    assert sum(seen) == 32 * passes == 32 * (planned.views_per_image + method.target_forwards)
