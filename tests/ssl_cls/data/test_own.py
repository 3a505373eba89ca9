"""A person's own images: manifests, .npz, tar shards, Parquet; deep pixels and many channels; what is held out."""

import io
import json
import os
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_cls.data import cache, catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.own import open_own
from ssl_cls.data.source import all_labels, labelled
from ssl_cls.errors import UserError

RNG = np.random.default_rng(0)
SPLITS = ("train", "val", "test")


def png(side: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def pictures(root: Path, n: int = 40) -> dict[str, bytes]:
    """a/0.png, b/1.png, ...: two folders that may or may not be classes."""
    content = {f"{'ab'[number % 2]}/{number}.png": png() for number in range(n)}
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return content


def opened(path: Path, labels: Path | None = None) -> dict[str, catalog.Source]:
    config = DataConfig(source="folder", path=str(path), labels=None if labels is None else str(labels))
    return {split: catalog.open(config, split) for split in SPLITS}


def found(sources: dict[str, catalog.Source]) -> dict[str, tuple[str, object]]:
    """path -> (split, label or labels by name)."""
    places = {}
    for split, source in sources.items():
        names = source.class_names or []
        for path, label in zip(source.paths(), all_labels(source).tolist(), strict=True):
            if isinstance(label, list):
                label = None if -1 in label else {name for name, own in zip(names, label, strict=True) if own}
            else:
                label = names[label] if label >= 0 else None
            assert path not in places
            places[path] = (split, label)
    return places


def decoded(source: catalog.Source, number: int) -> np.ndarray:
    height, width = source.sizes(torch.tensor([number]))[0].tolist()
    side = min(height, width)
    return source.crops(torch.tensor([number]), [torch.tensor([[0.0, 0, side, side]])], [side], "bilinear")[0][
        0
    ].numpy()


def as_shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)


# --- manifests ---


def test_a_manifest_says_labels_splits_and_groups(tmp_path: Path) -> None:
    content = pictures(tmp_path)
    lines = ["path,label,split,extra"]
    expected = {}
    for number, path in enumerate(content):
        split, label = ("train", "val", "test")[number // 3 % 3], ["cat", "", "10"][number % 3]
        lines.append(f"{path},{label},{split},x")
        expected[path] = (split, label or None)
    (tmp_path / "m.csv").write_text("\n".join(lines))
    sources = opened(tmp_path / "m.csv")
    assert found(sources) == expected
    assert sources["train"].class_names == ["10", "cat"]
    assert sources["train"].name == "m.csv/train"
    for number, path in enumerate(sources["test"].paths()):
        assert np.array_equal(decoded(sources["test"], number), as_shown(content[path]))


def test_json_lines_may_give_several_labels_to_an_image(tmp_path: Path) -> None:
    content = pictures(tmp_path)
    values = [["sun", "sea"], [], None, ["sea"]]
    rows = [{"path": path, "labels": values[number % 4]} for number, path in enumerate(content)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = opened(tmp_path / "m.jsonl")
    places = found(sources)
    expected = [{"sun", "sea"}, set(), None, {"sea"}]
    assert {path: label for path, (_, label) in places.items()} == {
        path: expected[number % 4] for number, path in enumerate(content)
    }
    assert all(split == "train" for split, label in places.values() if label is None)
    assert all_labels(sources["train"]).dtype == torch.float32
    assert sources["train"].class_names == ["sea", "sun"]


def test_classes_that_are_numbers_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    content = pictures(tmp_path)
    lines = [f"{path}\t{(2, 10, 9)[number % 3]}" for number, path in enumerate(content)]
    (tmp_path / "m.tsv").write_text("\n".join(["path\tlabel", *lines]))
    assert opened(tmp_path / "m.tsv")["train"].class_names == ["2", "9", "10"]


def test_labels_for_a_part_of_a_folder(tmp_path: Path) -> None:
    content = pictures(tmp_path / "images", 60)
    named = dict(zip(list(content)[:40], ["x", "y", "y", "y"] * 10, strict=False))
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *(f"{p},{k}" for p, k in named.items())]))
    sources = opened(tmp_path / "images", tmp_path / "labels.csv")
    places = found(sources)
    assert {path: label for path, (_, label) in places.items()} == {path: named.get(path) for path in content}
    held = Counter((split, label) for split, label in places.values())
    # a fifth of each class, then a tenth of what is left; images without a label are for training
    assert held == {
        ("test", "x"): 2, ("test", "y"): 6, ("val", "x"): 1, ("val", "y"): 2,
        ("train", "x"): 7, ("train", "y"): 22, ("train", None): 20,
    }  # fmt: skip
    known = labelled(sources["train"])
    assert (len(known), known.name) == (29, "images/train")
    assert labelled(sources["test"]) is sources["test"]
    other = opened(tmp_path / "images")
    assert other["train"].class_names == ["a", "b"]  # without the manifest, folders are the classes
    assert other["train"].fingerprint != sources["train"].fingerprint
    assert other["train"].members != sources["train"].members  # labels deal other images out


def test_members_know_which_images_not_their_labels_or_times(tmp_path: Path) -> None:
    content = pictures(tmp_path, 30)

    def members(*letters: str) -> str:
        splits = ["train"] * (len(content) - 2) + ["val", "test"]
        lines = [f"{path},{letters[n % len(letters)]},{splits[n]}" for n, path in enumerate(content)]
        (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *lines]))
        return open_own(tmp_path / "m.csv", "train", 0.0).members

    before = members("x", "y")
    assert members("z") == before
    first = tmp_path / next(iter(content))
    os.utime(first, (1, 1))
    assert members("x", "y") == before
    first.write_bytes(first.read_bytes() + b"more")
    assert members("x", "y") != before
    del content[next(iter(content))]
    assert members("x", "y") != before


def test_a_group_is_in_one_split_and_whole(tmp_path: Path) -> None:
    content = pictures(tmp_path, 200)
    rows = [f"{path},{'xy'[number % 20 < 10]},p{number // 10}" for number, path in enumerate(content)]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,group", *rows]))
    places = found(opened(tmp_path / "m.csv"))
    splits: dict[int, set[str]] = {}
    for number, path in enumerate(content):
        splits.setdefault(number // 10, set()).add(places[path][0])
    assert all(len(own) == 1 for own in splits.values())
    assert Counter(places.values())["test", "x"] == Counter(places.values())["test", "y"] == 20


REFUSED = {
    "no path": ("name,label\na/0.png,x", "a row without a path"),
    "misspelt": ("path,lable\na/0.png,x", "did you mean label?"),
    "a split of its own": ("path,split\na/0.png,dev", "is no split"),
    "semicolons": ("path;label\na/0.png;x", "separated by semicolons"),
    "a name of another kind": ("filename,label\na/0.png,x", "rename it to path"),
    "a class to test alone": ("path,label,split\na/0.png,x,train\nb/1.png,new,test", "none to learn from: new"),
    "outside": ("path\n../x.png", "is no path below"),
    "absolute": ("path\n/etc/passwd", "is no path below"),
    "twice": ("path\na/0.png\na/0.png", "comes twice"),
    "empty": ("path,label\n", "no rows"),
    "too many values": ("path,label\na/0.png,x,y", "more values than columns"),
    "both": ("path,label,labels\na/0.png,x,y", "both `label` and `labels`"),
    "a group in two splits": ("path,split,group\na/0.png,train,p\nb/1.png,test,p", "what is tested would be known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_manifests_that_are_wrong_are_refused(case: str, tmp_path: Path) -> None:
    pictures(tmp_path)
    text, expected = REFUSED[case]
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UserError) as refused:
        opened(tmp_path / "m.csv")
    assert expected in str(refused.value)


def test_a_manifest_of_images_that_are_not_there_says_how_paths_are_meant(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    (tmp_path / "labels.csv").write_text("path,label\nimages/a/0.png,x")
    with pytest.raises(UserError, match="1 of 1 rows name an image that is not there") as refused:
        opened(tmp_path / "images", tmp_path / "labels.csv")
    assert "such as a/0.png" in refused.value.fix
    (tmp_path / "images" / "m.csv").write_text("path,label\n" + "\n".join(f"a/{n}.png,x" for n in range(40)))
    with pytest.raises(UserError, match="cannot be read, more than"):
        opened(tmp_path / "images" / "m.csv")


@pytest.mark.parametrize("unknown", ["", " ", "nan", "-1", None, -1, float("nan"), -1.0])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "JSONL", "npz"])
def test_an_unknown_label_is_no_class(tmp_path: Path, kind: str, unknown: object) -> None:
    labels = [number % 2 if number % 3 else unknown for number in range(60)]
    content = list(pictures(tmp_path, 60))
    path = tmp_path / f"m.{kind}"
    if kind == "npz":
        if unknown is None:
            pytest.skip("an array of numbers or text has no None")
        text = isinstance(unknown, str)
        np.savez(path, images=np.zeros((60, 2, 2), np.uint8), labels=np.array([str(k) if text else k for k in labels]))
    elif kind == "csv":
        rows = [f"{name},{'' if label is None else label}" for name, label in zip(content, labels, strict=True)]
        path.write_text("\n".join(["path,label", *rows]))
    else:
        own = [float(label) if isinstance(label, int) else label for label in labels]  # 1.0 is 1
        lines = [json.dumps({"path": name, "label": label}) for name, label in zip(content, own, strict=True)]
        path.write_text("\n".join(lines))
    sources = opened(path)
    assert sources["train"].class_names == ["0", "1"]
    assert sum(int((all_labels(source) == -1).sum()) for source in sources.values()) == 20


def test_absolute_paths_below_the_folder_are_paths_in_it(tmp_path: Path) -> None:
    content = pictures(tmp_path)
    (tmp_path / "M.CSV").write_text("\n".join(["path", *(str(tmp_path / path) for path in content)]))
    assert set(found(opened(tmp_path / "M.CSV"))) == set(content)
    assert set(found(opened(tmp_path, tmp_path / "M.CSV"))) == set(content)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "npz", "tar", "parquet"])
def test_group_0_is_a_group_as_any_other(tmp_path: Path, kind: str) -> None:
    groups, data = [number // 2 % 10 for number in range(80)], [png() for _ in range(80)]
    path = tmp_path / f"m.{kind}"
    if kind == "npz":
        np.savez(path, images=np.stack([as_shown(own) for own in data]), groups=np.array(groups))
        expected = {as_shown(own).tobytes(): group for own, group in zip(data, groups, strict=True)}
        seen = {
            split: {expected[own.tobytes()] for own in source.pixels(torch.arange(len(source))).numpy()}
            for split, source in opened(path).items()
        }
    else:
        if kind == "tar":
            shard(path, {f"{n}.png": own for n, own in enumerate(data)} | {
                f"{n}.json": json.dumps({"group": group}).encode() for n, group in enumerate(groups)})  # fmt: skip
        elif kind == "parquet":
            pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pa.table({"image": data, "group": groups}), path)
        else:
            for number, own in enumerate(data):
                (tmp_path / f"{number}.png").write_bytes(own)
            rows = [f"{n}.png,{group}" for n, group in enumerate(groups)]
            lines = [json.dumps({"path": f"{n}.png", "group": group}) for n, group in enumerate(groups)]
            path.write_text("\n".join(["path,group", *rows] if kind == "csv" else lines))
        seen = {
            split: {groups[int(Path(own).stem)] for own in source.paths()} for split, source in opened(path).items()
        }
    assert sum(map(len, seen.values())) == 10
    assert set.union(*seen.values()) == set(range(10))


# --- arrays ---


def test_npz_of_images_and_labels(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (50, 9, 7, 3), np.uint8)
    labels = np.arange(50) % 2
    np.savez(tmp_path / "x.npz", images=images, labels=labels, class_names=np.array(["cat", "dog"]))
    sources = opened(tmp_path / "x.npz")
    assert [len(sources[split]) for split in SPLITS] == [36, 4, 10]
    assert Counter(all_labels(sources["test"]).tolist()) == {0: 5, 1: 5}
    written = {image.transpose(2, 0, 1).tobytes(): label for image, label in zip(images, labels, strict=True)}
    read = {}
    for source in sources.values():
        pixels = source.pixels(torch.arange(len(source))).numpy()
        read |= {image.tobytes(): label for image, label in zip(pixels, all_labels(source).tolist(), strict=True)}
        assert (source.size, source.channels, source.class_names) == ((9, 7), 3, ["cat", "dog"])
    assert read == written


@pytest.mark.parametrize("names", [("{}_images", "{}_labels"), ("x_{}", "y_{}")])
def test_npz_with_an_array_for_each_split(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays = {}
    for split, n in (("train", 20), ("test", 6)):
        arrays[names[0].format(split)] = RNG.integers(0, 256, (n, 8, 8), np.uint8)
        arrays[names[1].format(split)] = (np.arange(n) % 2)[:, None]
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    sources = opened(tmp_path / "x.npz")
    assert [len(sources[split]) for split in SPLITS] == [18, 2, 6]
    assert np.array_equal(sources["test"].pixels(torch.arange(6))[:, 0], arrays[names[0].format("test")])
    assert all_labels(sources["test"]).tolist() == [0, 1] * 3


def test_npz_of_deep_pixels_text_labels_and_a_group(tmp_path: Path) -> None:
    images = RNG.integers(0, 65536, (40, 5, 6), np.uint16)
    groups = np.array([f"p{number // 4}" for number in range(40)])
    np.savez(tmp_path / "x.npz", images=images, labels=np.array(["x", "y", "", "x"] * 10), groups=groups)
    sources = opened(tmp_path / "x.npz")
    assert sources["train"].class_names == ["x", "y"]
    expected = {np.rint(image / 257).astype(np.uint8).tobytes(): groups[number] for number, image in enumerate(images)}
    seen = [
        {expected[image.tobytes()] for image in source.pixels(torch.arange(len(source))).numpy()[:, 0]}
        for source in sources.values()
    ]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 10


class _Planted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("planted"),)  # type: ignore[return-value]


@pytest.mark.parametrize("case", ["pickled", "no archive", "no images", "floats", "other length", "bomb"])
def test_npz_that_is_wrong_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    images = np.zeros((20, 4, 4), np.uint8)
    arrays = {
        "pickled": {"images": np.array([_Planted()], dtype=object)},
        "no images": {"pictures": images},
        "floats": {"images": images / 2},
        "other length": {"images": images, "labels": np.zeros(19, np.int64)},
        "bomb": {"images": images},
    }
    np.savez(path, **arrays.get(case, {}))
    if case == "no archive":
        path.write_bytes(b"PK\x03\x04 no")
    if case == "bomb":
        monkeypatch.setattr("os.sysconf", lambda name: 10)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        open_own(path, "train", 0.0)
    assert refused.value.where == str(path)
    assert not Path("planted").exists()


# --- shards ---


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


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


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content: dict[str, bytes] = {}
    for name, n in (("train-00000-of-00001", 30), ("validation-00000-of-00001", 5), ("test-00000-of-00001", 6)):
        data = [png() for _ in range(n)]
        content |= {f"{name}.parquet/{number}": own for number, own in enumerate(data)}
        table = pa.table({"image": [{"bytes": own, "path": None} for own in data], "label": [k % 2 for k in range(n)]})
        features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=4)
    sources = opened(tmp_path)
    assert [len(sources[split]) for split in SPLITS] == [30, 5, 6]
    for source in sources.values():
        assert source.class_names == ["cat", "dog"]
        for number, path in enumerate(source.paths()):
            assert np.array_equal(decoded(source, number), as_shown(content[path]))
            assert int(all_labels(source)[number]) == int(path.rpartition("/")[2]) % 2
    (tmp_path / "extra.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="not a Parquet file"):
        opened(tmp_path)


def hugging_face(image: str = "img", label: str = "label", **more: object):  # type: ignore[no-untyped-def]
    """A table of 20 images as `datasets` has it: structures of bytes, and the classes' names beside the schema."""
    pa = pytest.importorskip("pyarrow")
    known = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    features = {image: {"_type": "Image"}, label: known, **dict.fromkeys(more, known)}
    columns = {image: [{"bytes": png(), "path": None} for _ in range(20)], label: [n % 2 for n in range(20)], **more}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


CLONED = [
    ("data/train-00000-of-00001", "data/validation-00000-of-00001", "data/test-00000-of-00001"),
    ("main/train/0", "main/valid/0", "main/test/0"),
]


@pytest.mark.parametrize("names", CLONED)
@pytest.mark.parametrize("columns", [("image", "label"), ("img", "label"), ("scan", "class"), ("image", "labels")])
def test_a_cloned_data_set_repository_opens(columns: tuple[str, str], names: tuple[str, ...], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "README.md").write_text("a card")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(hugging_face(*columns), tmp_path / f"{name}.parquet")
    sources = opened(tmp_path)
    assert [len(source) for source in sources.values()] == [20, 20, 20]
    assert len({path for source in sources.values() for path in source.paths()}) == 60
    for source in sources.values():
        assert source.class_names == ["cat", "dog"]
        assert all_labels(source).tolist() == [0, 1] * 10


def test_of_several_columns_of_classes_the_one_that_is_meant_must_be_said(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(hugging_face(label="fine", coarse=[0] * 20), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="which of fine, coarse is `label`"):
        opened(tmp_path)


@pytest.mark.parametrize("several", [False, True])
def test_what_save_to_disk_wrote_opens(several: bool, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    for split in ("train", "test") if several else ("",):
        folder = tmp_path / split
        folder.mkdir(exist_ok=True)
        for name in ("data-00000-of-00001.arrow", "cache-1234.arrow"):
            table = hugging_face("image")
            with pa.ipc.new_stream(folder / name, table.schema) as stream:
                stream.write_table(table)
        (folder / "dataset_info.json").write_text("{}")
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    if several:
        (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    sources = opened(tmp_path)
    assert sum(map(len, sources.values())) == (40 if several else 20)
    assert len(sources["test"]) == (20 if several else 4)
    assert sources["train"].class_names == ["cat", "dog"]


def test_shards_may_lie_in_folders_of_their_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        shard(tmp_path / split / "0.tar", {f"{number}.png": png() for number in range(5)})
    sources = opened(tmp_path)
    assert [len(source) for source in sources.values()] == [5, 5, 5]
    assert sources["val"].paths()[0] == "val/0.tar/0.png"
    assert decoded(sources["test"], 0).shape == (3, 6, 6)


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="needs pyarrow") as refused:
        open_own(tmp_path / "x.parquet", "train", 0.0)
    assert "pip install" in refused.value.fix


# --- pixels of any depth, and any number of channels ---


def test_arrays_of_many_channels_are_cut_plane_by_plane(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    images = [RNG.integers(0, 256, (12, 10, 5), np.uint8) for _ in range(4)]
    for number, image in enumerate(images):
        np.save(tmp_path / "train" / f"{number}.npy", image if number % 2 else image.transpose(2, 0, 1))
    source = open_own(tmp_path, "train", 0.0)
    index = [int(Path(path).stem) for path in source.paths()]
    assert (source.channels, len(source.mean)) == (5, 5)
    box = torch.tensor([[2.0, 1.0, 8.0, 8.0]])
    for place, number in enumerate(index):
        crop = source.crops(torch.tensor([place]), [box], [8], "bilinear")[0][0]
        assert np.array_equal(crop, images[number].transpose(2, 0, 1)[:, 2:10, 1:9])
        small = source.crops(torch.tensor([place]), [box], [4], "bicubic")[0][0]
        for plane in range(5):
            part = Image.fromarray(np.ascontiguousarray(images[number][2:10, 1:9, plane]))
            expected = np.asarray(part.resize((4, 4), Image.Resampling.BICUBIC)).astype(int)
            assert np.abs(small[plane].numpy().astype(int) - expected).max() <= 2  # levels: see test_folder.py


@pytest.mark.parametrize("kind", ["npy", "tif", "png"])
def test_deep_pixels_are_reduced_by_the_stated_window(tmp_path: Path, kind: str) -> None:
    values = RNG.integers(0, 65536, (8, 8), np.uint16)
    (tmp_path / "train").mkdir()
    path = tmp_path / "train" / f"x.{kind}"
    np.save(path, values) if kind == "npy" else Image.fromarray(values).save(path)
    whole = open_own(tmp_path, "train", 0.0)
    assert np.array_equal(decoded(whole, 0)[0], np.rint(values / 257))
    narrow = open_own(tmp_path, "train", 0.0, window=(1000, 5095))
    assert np.array_equal(decoded(narrow, 0)[0], np.rint((values.clip(1000, 5095).astype(float) - 1000) * 255 / 4095))
    assert narrow.fingerprint != whole.fingerprint


def test_float_arrays_need_a_window(tmp_path: Path) -> None:
    values = RNG.normal(size=(8, 8, 4)).astype(np.float32)
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train" / "x.npy", values)
    source = open_own(tmp_path, "train", 0.0, window=(-1, 1))
    expected = np.rint((values.clip(-1, 1) + 1) * 127.5).transpose(2, 0, 1)
    assert np.abs(decoded(source, 0) - expected).max() <= 1
    with pytest.raises(UserError, match=r"data.window=\[LOW,HIGH\]"):
        decoded(open_own(tmp_path, "train", 0.0), 0)


def test_a_tiff_of_five_channels_keeps_them_all(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    images = {channels: RNG.integers(0, 256, (9, 8, channels), np.uint8) for channels in (4, 5)}
    for channels, image in images.items():
        (tmp_path / str(channels) / "train").mkdir(parents=True)
        path = tmp_path / str(channels) / "train" / "x.tif"
        tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unspecified"] * (channels - 3))
        source = open_own(tmp_path / str(channels), "train", 0.0)
        assert source.channels == channels
        assert np.array_equal(decoded(source, 0), image.transpose(2, 0, 1)[:, :8, :8])


PAGES = {
    "default": {},
    "imagej": {"imagej": True, "metadata": {"axes": "CYX"}},
    "ome": {"ome": True, "metadata": {"axes": "CYX"}},
    "planar": {"photometric": "minisblack", "planarconfig": "separate"},
}


@pytest.mark.parametrize("last", [False, True], ids=["CYX", "YXC"])
@pytest.mark.parametrize("kind", PAGES)
def test_tiffs_keep_the_channels_that_lie_on_pages(kind: str, last: bool, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 256, (5, 9, 9), np.uint8)
    if last and kind != "default":
        pytest.skip("its writer has no such layout")
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels.transpose(1, 2, 0) if last else pixels, **PAGES[kind])
    source = open_own(tmp_path, "train", 0.0)
    assert source.channels == 5
    assert np.array_equal(decoded(source, 0), pixels)


def test_a_tiff_of_two_channels_keeps_both(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 256, (9, 9, 2), np.uint8)
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels, photometric="minisblack", planarconfig="contig",
                         extrasamples=["unspecified"])  # fmt: skip
    assert np.array_equal(decoded(open_own(tmp_path, "train", 0.0), 0), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("options", [{"metadata": None}, {"imagej": True, "metadata": {"axes": "ZYX"}}])
def test_pages_that_may_be_something_else_than_channels_are_refused(options: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    tifffile = pytest.importorskip("tifffile")
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros((4, 9, 9), np.uint8), photometric="minisblack", **options)
    with pytest.raises(UserError, match="4 pages that are not said to be channels"):
        open_own(tmp_path, "train", 0.0)


@pytest.mark.parametrize("window", [None, (0, 4095)])
def test_deep_colours_are_reduced_by_the_window_too(window: tuple[float, float] | None, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 4096, (9, 9, 3), np.uint16)
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels, photometric="rgb")
    source = open_own(tmp_path, "train", 0.0, window=window)
    expected = np.floor(pixels * (255 / (window[1] if window else 65535)) + 0.5).astype(np.uint8)
    assert np.array_equal(decoded(source, 0), expected.transpose(2, 0, 1))


def test_deep_colours_in_a_png_are_read_but_not_by_a_window(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(4 * (b"\0" + bytes(24)))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(own)) + k + own + struct.pack(">I", zlib.crc32(k + own)) for k, own in chunks]
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert open_own(tmp_path, "train", 0.0).channels == 3
    with pytest.raises(UserError, match="Pillow keeps 8 bits and no window"):
        decoded(open_own(tmp_path, "train", 0.0, window=(0, 4095)), 0)


@pytest.mark.parametrize("case", ["objects", "cut", "four axes", "bomb", "empty"])
def test_hostile_arrays_are_bad_images_and_no_more(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    for number in range(3):
        np.save(tmp_path / "train" / f"{number}.npy", np.zeros((4, 4, 5), np.uint8))
    arrays = {"objects": np.array([[_Planted()]]), "four axes": np.zeros((2, 2, 2, 2)), "empty": np.zeros((0, 4, 5))}
    path = tmp_path / "train" / "x.npy"
    np.save(path, arrays.get(case, np.zeros((4, 4, 5), np.uint8)), allow_pickle=True)
    if case == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    if case == "bomb":
        with path.open("wb") as file:
            header = {"shape": (2**20, 2**20, 5), "descr": "|u1", "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header)
    monkeypatch.chdir(tmp_path)
    source = open_own(tmp_path, "train", 1.0)
    for number in range(len(source)):
        source.crops(torch.tensor([number]), [torch.tensor([[0.0, 0, 4, 4]])], [4], "bilinear")
    assert [line.split(":")[0] for line in source.bad] == ["train/x.npy"]
    assert not Path("planted").exists()


def test_images_of_other_channels_among_many_are_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number, channels in enumerate((5, 1, 4)):
        np.save(tmp_path / "train" / f"{number}.npy", np.zeros((9, 8, channels), np.uint8))
    with pytest.raises(UserError, match=r"images of 4 and of 5 channels: train/2.npy and train/0.npy"):
        open_own(tmp_path, "train", 0.0)


# --- mean and standard deviation, and what is remembered ---


def test_images_are_normalised_by_their_own_statistics(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    pixels = RNG.integers(0, 256, (6, 64, 64, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "train" / f"{number}.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "test" / "x.png")
    sources = {split: open_own(tmp_path, split, 0.0) for split in ("test", "train")}
    for source in sources.values():  # of the training images, whichever is opened first
        assert source.mean == sources["train"].mean
        assert source.mean == pytest.approx(tuple((pixels / 255).mean((0, 1, 2))), abs=0.02)
        assert source.std == pytest.approx(tuple((pixels / 255).std((0, 1, 2))), abs=0.02)


def test_a_second_start_reads_no_header_and_no_pixel_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_cls.data import headers, statistics

    pictures(tmp_path)
    read: list[object] = []
    original_header, original_cut = headers.read_header, statistics.cut
    monkeypatch.setattr(headers, "read_header", lambda path: (read.append(path), original_header(path))[1])
    monkeypatch.setattr(statistics, "cut", lambda *options: (read.append(options), original_cut(*options))[1])
    first = open_own(tmp_path, "train", 0.0)
    assert len(read) == 40 + len(first)
    headers._last.clear()  # as in another process
    read.clear()
    again = open_own(tmp_path, "train", 0.0)
    assert read == []
    assert (again.mean, again.std, again.fingerprint) == (first.mean, first.std, first.fingerprint)
    assert torch.equal(again.sizes(torch.arange(len(again))), first.sizes(torch.arange(len(first))))
    (tmp_path / "a" / "0.png").write_bytes(png(7))
    assert open_own(tmp_path, "train", 0.0).mean
    assert tmp_path / "a" / "0.png" in read
    assert len([path for path in read if isinstance(path, Path)]) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"[]"])
def test_a_damaged_cache_costs_time_only(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_cls.data import headers

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures(tmp_path / "images")
    first = open_own(tmp_path / "images", "train", 0.0)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(content)
    headers._last.clear()
    again = open_own(tmp_path / "images", "train", 0.0)
    assert (again.mean, again.fingerprint) == (first.mean, first.fingerprint)


def test_without_a_place_for_the_cache_all_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    pictures(tmp_path / "images")
    assert len(open_own(tmp_path / "images", "train", 0.0)) > 20


def test_what_breaks_off_leaves_no_temporary_file_in_the_cache(tmp_path: Path) -> None:
    def broken(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.keep(tmp_path / "x", broken)
    assert list(tmp_path.iterdir()) == []
