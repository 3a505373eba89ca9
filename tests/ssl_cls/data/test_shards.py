"""Own images in tar shards, read where they lie."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import as_shown, decoded, found, opened, pictures, png, shard

from ssl_cls.data.own import open_own
from ssl_cls.errors import UserError


def test_shards_are_read_where_they_lie(tmp_path: Path) -> None:
    content, expected = {}, {}
    for number in range(3):
        members = {}
        for sample in range(10):
            name, label = f"s{number}-{sample}", ("cat", "dog")[sample % 2]
            members |= {
                f"{name}.json": json.dumps({"label": label}).encode(),
                f"{name}.png": png(),
                f"{name}.txt": b"a",
            }
            key = f"train-{number}.tar/{name}.png"
            content[key], expected[key] = members[f"{name}.png"], label
        shard(tmp_path / f"train-{number}.tar", members)
    shard(tmp_path / "test-0.tar", {"t.cls": b"cat\n", "t.png": png(), "u.png": png()})
    sources = opened(tmp_path)
    places = found(sources)
    assert {path: label for path, (_, label) in places.items() if path in expected} == expected
    assert places["test-0.tar/t.png"] == ("test", "cat")
    assert places["test-0.tar/u.png"] == ("test", None)
    assert len(places) == 32
    for number, path in enumerate(sources["train"].paths()):
        assert np.array_equal(decoded(sources["train"], number), as_shown(content[path]))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(f"train-{n}.tar" for n in range(3)), "test-0.tar"]
    )


def test_shards_pass_to_decoding_processes(tmp_path: Path) -> None:
    from ssl_cls.augment.augment import Augment
    from ssl_cls.augment.view import View
    from ssl_cls.data.stream import Stream

    shard(tmp_path / "x.tar", {f"{number}.png": png(9) for number in range(30)})
    source = open_own(tmp_path, "train", 0.0)
    augment = Augment((View(size=8, scale=(0.5, 1.0)),), source.mean, source.std)
    batches = [
        list(Stream(source, augment, seed=0, batch_size=8, device=torch.device("cpu"), workers=n).batches(0, 2))
        for n in (0, 2)
    ]
    for one, two in zip(*batches, strict=True):
        assert torch.equal(one[0].views["global"][0], two[0].views["global"][0])


def test_a_folder_of_images_may_have_an_archive_beside_them(tmp_path: Path) -> None:
    pictures(tmp_path)
    shard(tmp_path / "backup.tar", {"x.png": png()})
    assert sum(map(len, opened(tmp_path).values())) == 40


def compressed(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))


HOSTILE_SHARDS = {
    "compressed": compressed,
    "cut": lambda path: path.write_bytes(b"a" * 700),
    "climbing": lambda path: shard(path, {"../a.png": png()}),
    "absolute": lambda path: shard(path, {"/a.png": png()}),
    "two images": lambda path: shard(path, {"a.png": png(), "a.jpg": png()}),
    "bad json": lambda path: shard(path, {"a.png": png(), "a.json": b"[" * 99_999}),
    "nothing": lambda path: shard(path, {"a.txt": b""}),
}


@pytest.mark.parametrize("case", HOSTILE_SHARDS)
def test_shards_that_are_wrong_are_refused(case: str, tmp_path: Path) -> None:
    HOSTILE_SHARDS[case](tmp_path / "x.tar")
    with pytest.raises(UserError) as refused:
        open_own(tmp_path, "train", 0.0)
    assert str(tmp_path) in str(refused.value)


# --- parquet ---
