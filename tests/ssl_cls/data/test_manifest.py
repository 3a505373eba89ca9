"""Tables of own images: labels, splits and groups, and what is wrong with them."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import as_shown, decoded, found, opened, pictures, png, shard

from ssl_cls.data.own import open_own
from ssl_cls.data.source import all_labels, labelled
from ssl_cls.errors import UserError


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
