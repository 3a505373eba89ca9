"""A checkpoint is whole and verified, or it is not there."""

import json
from pathlib import Path

import pytest
import torch
from campaign import damage
from torch import nn

from ssl_cls import checkpoint, durable


def write(root: Path, step: int, keep: int = 2) -> Path:
    model = {"weight": torch.full((3, 2), float(step)), "count": torch.tensor(step)}
    return checkpoint.save(root, {"step": step, "metrics_bytes": 7}, model, {"weight/exp_avg": torch.ones(3, 2)}, keep)


def newest(root: Path) -> int | None:
    folder = checkpoint.newest(root)
    return checkpoint.load(folder).state["step"] if folder else None


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    loaded = checkpoint.load(write(tmp_path, 12))
    assert loaded.state["step"] == 12
    assert torch.equal(loaded.model["weight"], torch.full((3, 2), 12.0))
    assert int(loaded.model["count"]) == 12
    assert torch.equal(loaded.optim["weight/exp_avg"], torch.ones(3, 2))


def test_only_the_newest_are_kept_and_only_after_the_new_one_is_verified(tmp_path: Path) -> None:
    for step in (5, 10, 15, 100):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000015", "step_00000100"]


@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "delete"])
def test_any_damage_to_any_file_is_seen_and_the_one_before_is_used(tmp_path: Path, name: str, harm: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2) / name
    content = path.read_bytes()
    if harm == "flip":
        place = content.index(b"sha256") + 12 if name == "MANIFEST.json" else len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif harm == "delete":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if harm == "truncate" else b"")
    assert newest(tmp_path) == 1


def test_every_single_bit_of_the_weights_is_guarded(tmp_path: Path) -> None:
    path = write(tmp_path, 2) / "model.safetensors"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        assert checkpoint.damaged(path.parent) is not None
    path.write_bytes(content)
    assert checkpoint.damaged(path.parent) is None


def test_harm_of_every_kind_is_seen_and_would_show_if_it_were_not(  # R5
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = damage.run(60, tmp_path / "seen")
    assert {row.fault.removeprefix("checkpoint: ") for row in rows} == set(damage.HARMS)
    assert all(row.tries == row.survived > 0 for row in rows)
    monkeypatch.setattr(checkpoint, "damaged", lambda folder: None)
    assert sum(row.survived for row in damage.run(20, tmp_path / "unseen")) == 0


def test_a_write_that_fails_leaves_the_older_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert newest(tmp_path) == 1
    write(tmp_path, 2)
    assert newest(tmp_path) == 2


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the next attempt: a partial one would fill the disk for good."""
    write(tmp_path, 1)
    for owner, name in ((checkpoint, "save_file"), (Path, "write_text"), (durable, "sync"), (Path, "rename")):

        def broken(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, broken)
            with pytest.raises(OSError, match="Input/output error"):
                write(tmp_path, 2)
        if name != "sync":  # the folder's own comes after the rename
            assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert newest(tmp_path) == 1


def test_a_damaged_one_is_set_aside_and_neither_loaded_nor_deleted(tmp_path: Path) -> None:
    for _ in range(2):
        (write(tmp_path, 2) / "state.json").write_text("{}")
        assert newest(tmp_path) is None
        (told,) = checkpoint.set_aside(tmp_path)
        assert "step_00000002 is damaged and set aside as broken_step_00000002" in told
        assert "state.json differs" in told
    names = ["broken_step_00000002", "broken_step_00000002-2", "step_00000002"]
    write(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert newest(tmp_path) == 2
    for step in (3, 4, 5):
        write(tmp_path, step)
    assert {path.name for path in tmp_path.iterdir()} == {*names[:2], "step_00000004", "step_00000005"}


def test_optimizer_state_returns_by_name_and_in_its_own_memory_layout() -> None:
    def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)

    def update(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        module(torch.ones(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    module, optimizer = trained()
    update(module, optimizer)
    saved = {
        name: value.clone().contiguous() for name, value in checkpoint.optimizer_tensors(optimizer, module).items()
    }
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    update(module, optimizer)

    again, restored = trained()
    again.load_state_dict(weights)
    checkpoint.restore_optimizer(restored, again, saved)
    assert restored.state[again.weight]["exp_avg"].stride() == again.weight.stride()
    update(again, restored)
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert set(json.loads((folder / "MANIFEST.json").read_text())) == {
        "model.safetensors",
        "optim.safetensors",
        "state.json",
    }
