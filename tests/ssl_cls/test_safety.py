"""A step that is not finite moves nothing and ends the run with its batch; memory that is short is halved; signals."""

import contextlib
import gc
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import campaign
import pytest
import torch
from accelerate import Accelerator
from campaign.streams import images
from torch import Tensor

from ssl_cls import checkpoint, config, trainer
from ssl_cls.assembly import assemble
from ssl_cls.data import catalog, sampler
from ssl_cls.data.batch import Batch
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import Subset
from ssl_cls.errors import RunError, UserError
from ssl_cls.methods.mae import MAE
from ssl_cls.methods.simclr import SimCLR
from ssl_cls.replay import replay
from ssl_cls.run import Run
from ssl_cls.safety import Gate
from ssl_cls.signals import Signals
from ssl_cls.step import Step

pytestmark = pytest.mark.usefixtures("own_signals")

VIT = "{name: vit_tiny_patch16_224, args: {patch_size: 7, embed_dim: 16, depth: 1, num_heads: 2}, pooling: avg}"
CNN = "{name: resnet_small, args: {channels: [8, 16]}, pooling: avg}"
METHODS = {
    "mae": f"backbone: {VIT}\nmethod: {{name: mae, decoder_dim: 8, decoder_depth: 1, decoder_heads: 2}}",
    "simclr": f"backbone: {CNN}\nmethod: {{name: simclr, projector: [16, 8]}}",
}


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., config.Recipe]:
    def make(method: str = "mae", optim: str = "name: adamw, lr: 1e-3", **run: object) -> config.Recipe:
        settings = json.dumps({"dir": str(tmp_path / "run"), "checkpoint_every_steps": 2, "log_every_steps": 1, **run})
        text = f"name: x\ndata: {{source: digits}}\n{METHODS[method]}\noptim: {{{optim}}}\n"
        text += f"train: {{epochs: 0.5, batch_size: 128}}\nrun: {settings}\n"
        return config.resolved(config.parse(config.Recipe, text, "test"), 28, 1)

    return make


def digits() -> catalog.Source:
    return catalog.open(DataConfig(source="digits"), "train")


def train(recipe: config.Recipe) -> Path:
    return trainer.pretrain(recipe, digits(), Run(config.run_dir(recipe), recipe), Accelerator(cpu=True))


def weights(folder: Path) -> dict[str, Tensor]:
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    return checkpoint.load(newest).model


class Broken:
    """A method whose loss or gradient is not finite in one step, whatever its images."""

    def __init__(self, kind: str, step: int) -> None:
        self.kind, self.step, self.original = kind, step, MAE.loss

    def __call__(self, method, embeddings, batch: Batch, clock):  # type: ignore[no-untyped-def]
        output = self.original(method, embeddings, batch, clock)
        if clock.step != self.step:
            return output
        if self.kind == "loss":
            return output._replace(loss=output.loss + float("nan"))
        return output._replace(loss=output.loss + (output.loss - output.loss.detach()) * float("inf"))


OPTIMIZERS = ["name: adamw, lr: 1e-3", "name: sgd, lr: 0.1, momentum: 0.9", "name: lars, lr: 0.1"]


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_step_that_is_not_finite_moves_no_weight_and_closes_the_gate(  # R10
    recipe: Callable[..., config.Recipe], monkeypatch: pytest.MonkeyPatch, kind: str, optim: str
) -> None:
    parts = assemble(recipe(optim=optim), digits(), Accelerator(cpu=True))
    broken = Broken(kind, 2)
    monkeypatch.setattr(MAE, "loss", lambda *arguments: broken(*arguments))
    seen: list[dict[str, Tensor]] = []
    for number, batches in enumerate(parts.stream.batches(0, 4)):
        parts.step(batches, parts.clock(number))
        seen.append({name: value.clone() for name, value in parts.method.state_dict().items()})
        judged = parts.step.gate.read()
        assert judged is not None
        assert judged.bad_rank == (0 if number >= 2 else -1)
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    for after in seen[2:]:
        assert all(torch.equal(seen[1][name], after[name]) for name in after)


@pytest.mark.parametrize("method", campaign.METHODS)
def test_a_step_that_is_not_finite_moves_no_teacher_queue_or_centre(method: str, tmp_path: Path) -> None:  # R10
    recipe = config.load(campaign.write_recipe(tmp_path, method))
    parts = assemble(config.resolved(recipe, 28, 1), digits(), Accelerator(cpu=True))
    fine = parts.method.loss
    seen = []
    for number, batches in enumerate(parts.stream.batches(0, 3)):
        if number == 2:
            parts.method.loss = lambda *given: (made := fine(*given))._replace(loss=made.loss * float("nan"))  # type: ignore[method-assign]
        parts.step(batches, parts.clock(number))
        norms = ("running_mean", "running_var", "num_batches_tracked")
        state = parts.method.state_dict().items()
        seen.append({name: value.clone() for name, value in state if not name.endswith(norms)})
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    assert [name for name in seen[1] if not torch.equal(seen[1][name], seen[2][name])] == []


def test_the_gate_is_neutral_while_all_is_finite() -> None:
    """torch's fused optimizers go the same way with a gate that is open as without one, to the bit."""
    for kind, settings in ((torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9})):
        ended = []
        for gated in (False, True):
            torch.manual_seed(0)
            weight = torch.nn.Parameter(torch.randn(5, 3))
            optimizer = kind([weight], lr=0.1, fused=True, **settings)
            for _ in range(3):
                weight.grad = torch.randn(5, 3)
                if gated:
                    optimizer.found_inf = torch.zeros(())
                optimizer.step()
            ended.append(weight.detach().clone())
        assert torch.equal(*ended)


def test_of_steps_read_late_the_first_that_is_not_finite_is_told() -> None:
    gate = Gate(torch.device("cpu"))
    fine, bad = torch.ones(()), torch.full((), float("inf"))
    for step, norm in enumerate((fine, bad, fine)):
        skip = gate.judge(step, [fine], norm, 0)
        assert float(skip) == float(step >= 1)  # once closed, it stays closed
    judged = gate.read()
    assert judged is not None
    assert (judged.step, judged.bad_rank, judged.grad_norm) == (1, 0, float("inf"))


def test_the_run_stops_with_the_batch_and_it_can_be_replayed(
    recipe: Callable[..., config.Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = Broken("loss", 4)
    own = recipe(log_every_steps=100)
    with monkeypatch.context() as patched:
        patched.setattr(MAE, "loss", lambda *arguments: broken(*arguments))
        with pytest.raises(RunError, match="not finite in step 5, on rank 0") as failed:
            train(own)
        assert "doctor.py replay" in failed.value.fix
        report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
        _, batch = sampler.batch_indices(4, n=len(digits()), batch_size=128, seed=0)
        assert (report["step"], report["seed"], report["loss"]) == (4, 0, "nan")
        assert report["indices"] == batch.tolist()
        assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())][-1] == "step_00000004"
        assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
        again = replay(tmp_path / "run", own, digits(), Accelerator(cpu=True))
        assert (again.step, again.bad_rank) == (4, 0)
    assert replay(tmp_path / "run", own, digits(), Accelerator(cpu=True)).bad_rank == -1  # without the fault
    with pytest.raises(UserError, match="the images are not those of the run"):
        replay(tmp_path / "run", replace(own, seed=1), digits(), Accelerator(cpu=True))


def of_files(own: config.Recipe, folder: Path, workers: int, run: Path) -> config.Recipe:
    data = DataConfig(source="folder", path=str(folder), workers=workers, max_bad_fraction=0.1)
    train = replace(own.train, epochs=2, batch_size=16)
    own = replace(own, data=data, train=train, views=None, run=replace(own.run, dir=str(run)))
    return config.resolved(own, 28, 3)


def train_on_files(recipe: config.Recipe) -> Path:
    source = catalog.open(recipe.data, "train")
    return trainer.pretrain(recipe, source, Run(config.run_dir(recipe), recipe), Accelerator(cpu=True))


def test_bad_images_are_listed_once_and_told_of(
    recipe: Callable[..., config.Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_on_files(of_files(recipe(), images(tmp_path / "images"), 0, tmp_path / "run"))
    lines = (tmp_path / "run" / "bad_images.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["7.jpg"]
    assert "1 images could not be read; others stood in for them" in capsys.readouterr().err


def test_stopped_twice_in_an_epoch_and_resumed_with_other_workers_it_is_the_same_run(  # R3
    recipe: Callable[..., config.Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, own = images(tmp_path / "images", 120), recipe(checkpoint_every_steps=1)
    train_on_files(of_files(own, folder, 0, tmp_path / "straight"))
    original = Step.__call__
    for workers, stop in ((0, 1), (2, 3), (1, 10**9)):

        def call(self, batches, clock, signal=0, stop=stop):  # type: ignore[no-untyped-def]
            if clock.step == stop:
                raise BrokenPipeError("stopped")
            return original(self, batches, clock, signal)

        monkeypatch.setattr(Step, "__call__", call)
        with contextlib.suppress(BrokenPipeError):
            train_on_files(of_files(own, folder, workers, tmp_path / "stopped"))
        gc.collect()  # a traceback's frames hold the lock
    for name in ("metrics.jsonl", "encoder/model.safetensors", "bad_images.txt"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name


# --- disk ---


def test_a_save_that_fails_on_the_way_is_told_and_made_up_for(
    recipe: Callable[..., config.Recipe],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original, fails = checkpoint.save, [2]

    def save(root: Path, state: dict[str, int], *rest: object) -> Path:
        if state["step"] in fails:
            raise OSError(28, "No space left on device")
        return original(root, state, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save", save)
    train(recipe())
    said = capsys.readouterr().err
    assert "the checkpoint of step 2 could not be written: [Errno 28] No space left on device" in said
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert names == ["step_00000004", "step_00000005"]
    fails[:] = [5]
    with pytest.raises(RunError, match="the checkpoint of step 5 could not be written"):
        train(recipe(dir=str(tmp_path / "other")))
    assert not (tmp_path / "other" / "encoder").exists()


def test_a_metrics_line_that_cannot_be_written_ends_the_run_in_words(
    recipe: Callable[..., config.Recipe], tmp_path: Path
) -> None:
    own = recipe()
    run = Run(tmp_path / "run", own)
    run.open()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match="cannot be written: Is a directory"):
        run.append("metrics.jsonl", {"step": 1})


# --- memory ---


def short_of_memory(monkeypatch: pytest.MonkeyPatch, fits: int, method: type, steps: int = 10**9) -> None:
    """Passes of more than `fits` images do not fit into memory (in the first `steps` that are tried)."""
    original, tried = method.embed, []

    def embed(self, batch: Batch, clock):  # type: ignore[no-untyped-def]
        tried.append(clock.step)
        if len(batch.index) > fits and len(tried) <= steps:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch, clock)

    monkeypatch.setattr(method, "embed", embed)


def test_short_of_memory_a_run_is_that_of_smaller_micro_batches(
    recipe: Callable[..., config.Recipe],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = recipe()
    by_hand = replace(own, train=replace(own.train, micro_batch_size=32), run=replace(own.run, dir=str(tmp_path / "h")))
    train(by_hand)
    short_of_memory(monkeypatch, 32, MAE)
    train(own)
    assert "out of memory: 32 images at a time" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "h" / "metrics.jsonl").read_bytes()
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(value, weights(tmp_path / "h")[name]), name


def test_batch_norm_is_not_halved_in_secret(
    recipe: Callable[..., config.Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 64, SimCLR)
    with pytest.raises(RunError, match="batch norm") as failed:
        train(recipe("simclr"))
    assert "train.micro_batch_size=64" in failed.value.fix


def test_memory_that_runs_out_later_ends_the_run(
    recipe: Callable[..., config.Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, original = recipe(), Step.__call__

    def call(self, batches, clock, signal=0):  # type: ignore[no-untyped-def]
        if clock.step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batches, clock, signal)

    monkeypatch.setattr(Step, "__call__", call)
    with pytest.raises(RunError, match="after 3 steps that fitted"):
        train(own)


# --- signals ---


def test_a_second_signal_within_moments_is_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    signals = Signals(tell=False)
    os.kill(os.getpid(), signal.SIGTERM)
    now[0] += 1
    os.kill(os.getpid(), signal.SIGINT)  # the launcher passes on what the group has got
    now[0] += 10
    os.kill(os.getpid(), signal.SIGUSR1)  # the launcher has gone
    assert (signals.received, ended) == (signal.SIGTERM, [])
    os.kill(os.getpid(), signal.SIGINT)
    assert ended == [130]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_signal_finishes_the_step_saves_and_says_so_by_its_status(
    recipe: Callable[..., config.Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, status: int
) -> None:
    original = Step.__call__

    def call(self, batches, clock, signal=0):  # type: ignore[no-untyped-def]
        if clock.step == 2:
            os.kill(os.getpid(), number)
        return original(self, batches, clock, signal)

    with monkeypatch.context() as patched:
        patched.setattr(Step, "__call__", call)
        with pytest.raises(SystemExit) as ended:
            train(recipe(checkpoint_every_steps=100))
    assert ended.value.code == status
    del ended  # its frames hold the lock
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000004"]
    train(recipe(checkpoint_every_steps=100))
    assert "resuming at step 4 of" in (tmp_path / "run" / "log.txt").read_text()


def test_a_signal_before_the_last_step_finds_a_run_that_ends_whole(
    recipe: Callable[..., config.Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing left to stop: the last checkpoint and the encoder are written, as without the signal."""
    original = MAE.loss

    def signalled(method, embeddings, batch: Batch, clock):  # type: ignore[no-untyped-def]
        if clock.step == clock.total_steps - 2:  # seen as the last step begins
            os.kill(os.getpid(), signal.SIGTERM)
        return original(method, embeddings, batch, clock)

    monkeypatch.setattr(MAE, "loss", signalled)
    folder = train(recipe(checkpoint_every_steps=1000)).parent
    assert (folder / "encoder" / "model.safetensors").exists()
    assert weights(folder)


def test_a_run_does_not_go_on_with_other_images(recipe: Callable[..., config.Recipe]) -> None:
    """Labels given meanwhile move images between splits: the step would take others, and test images among them."""

    class Kill:
        def epoch_end(self, method: object, clock: object) -> dict[str, float]:
            raise KeyboardInterrupt

    asked, source = recipe(), digits()
    folder = config.run_dir(asked)
    with contextlib.suppress(KeyboardInterrupt):
        trainer.pretrain(asked, source, Run(folder, asked), Accelerator(cpu=True), [Kill()])
    gc.collect()  # the lock with it
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"}
    swapped = Subset(source, torch.arange(len(source)).flip(0), source.name)
    with pytest.raises(UserError, match="no longer what this run was begun on"):
        trainer.pretrain(asked, swapped, Run(folder, asked), Accelerator(cpu=True))
    assert before == {path: path.read_bytes() for path in before}
    assert (train(asked) / "config.json").exists()
