"""Weight files that want to run something, or are not what they say: refused in words, and nothing runs."""

import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eval import layouts
from ssl_cls import export
from ssl_cls.errors import UserError

CANARY = "SSL_CLS_CANARY"  # an environment variable that names the file that must not appear


class Payload:
    """Unpickled, it calls `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


WRITE = f"open(__import__('os').environ['{CANARY}'], 'w')"
PAYLOADS = {
    "os.system": Payload(os.system, f'touch "${CANARY}"'),
    "eval": Payload(eval, WRITE),
    "exec": Payload(exec, WRITE),
    "__import__": Payload(__import__, "antigravity"),
    "getattr": Payload(getattr, "", "join"),
    "numpy's object array": np.array([Payload(eval, WRITE)], dtype=object),
    "a module": torch.nn.Linear(2, 2),
}


def zipped(content: object) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def legacy(path: Path) -> None:
    torch.save({"x": PAYLOADS["eval"]}, path, _use_new_zipfile_serialization=False)


def old_tar(path: Path) -> None:
    """torch's format before 0.2."""
    with tarfile.open(path, "w") as archive:
        for name in ("pickle", "storages", "tensors"):
            content = pickle.dumps(PAYLOADS["eval"])
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def nested(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"x": PAYLOADS["os.system"]}))
        archive.writestr("archive/version", "3\n")


def script(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


TORCH: dict[str, Callable[[Path], object]] = {
    **{f"pickled {name}": raw(pickle.dumps({"x": payload})) for name, payload in PAYLOADS.items()},
    **{f"torch's zip, {name}": zipped({"x": payload, "y": torch.zeros(2)}) for name, payload in PAYLOADS.items()},
    "torch's legacy format": legacy,
    "torch's tar format": old_tar,
    "a zip made by hand": nested,
    "TorchScript": script,
    "nothing": raw(b""),
    "a web page": raw(b"<html>404</html>"),
}


def header(content: object, rest: bytes = b"") -> Callable[[Path], None]:
    text = json.dumps(content).encode()
    return raw(struct.pack("<Q", len(text)) + text + rest)


def entry(begin: int, end: int, shape: list[int]) -> dict[str, object]:
    return {"x": {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}}


SAFETENSORS: dict[str, Callable[[Path], object]] = {
    "a pickle by another name": raw(pickle.dumps(PAYLOADS["eval"])),
    "an endless header": raw(struct.pack("<Q", 2**63) + b"{}"),
    "a header that is no JSON": raw(struct.pack("<Q", 4) + b"\xff\xfe\0\1"),
    "an offset beyond the end": header(entry(0, 400, [100]), bytes(8)),
    "an offset before the start": header(entry(-8, 8, [4]), bytes(16)),
    "a shape that overflows": header(entry(0, 8, [2**40, 2**40]), bytes(8)),
    "overlapping tensors": header(
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "xy"}, bytes(8)
    ),
    "an unknown type": header({"x": {"dtype": "PY", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
}

CONFIGS: dict[str, object] = {
    "a path": {"architecture": "../../etc/passwd"},
    "a hub": {"architecture": "hf-hub:someone/model"},
    "a folder": {"architecture": "local-dir:/"},
    "a list": {"architecture": ["resnet18"]},
    "arguments that are code": {"architecture": "resnet18", "model_args": {"act_layer": "__import__('os').system"}},
    "no mapping": [1, 2],
}


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "was_run"
    monkeypatch.setenv(CANARY, str(path))
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    return path


def refused(call: Callable[[], object], canary: Path) -> UserError:
    with pytest.raises(UserError) as told:
        call()
    assert not canary.exists()
    assert "antigravity" not in sys.modules
    assert len(str(told.value).splitlines()) < 12
    return told.value


@pytest.mark.parametrize("name", TORCH)
def test_what_could_run_code_is_refused_with_a_safe_way(tmp_path: Path, canary: Path, name: str) -> None:
    path = tmp_path / "weights.pth"
    TORCH[name](path)
    told = refused(lambda: layouts.read(path), canary)
    assert told.where == str(path)
    assert ".safetensors" in told.fix


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_that_lie_are_refused(tmp_path: Path, canary: Path, name: str) -> None:
    path = tmp_path / "weights.safetensors"
    SAFETENSORS[name](path)
    assert refused(lambda: layouts.read(path), canary).where == str(path)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_encoder_s_config_names_an_architecture_and_no_more(tmp_path: Path, canary: Path, name: str) -> None:
    content = CONFIGS[name]
    if isinstance(content, dict):
        content = {"pretrained_cfg": {"input_size": [1, 28, 28]}, **content}
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert refused(lambda: export.load_encoder(tmp_path), canary).where == str(tmp_path)


def test_the_payloads_are_live(canary: Path) -> None:
    """Else nothing above shows anything."""
    pickle.loads(pickle.dumps(PAYLOADS["eval"])).close()
    assert canary.exists()
