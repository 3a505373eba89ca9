"""Own images in Parquet, and as Hugging Face's datasets saves them."""

import json
from pathlib import Path

import numpy as np
import pytest
from own_images import SPLITS, as_shown, decoded, opened, png, shard

from ssl_cls.data.own import open_own
from ssl_cls.data.source import all_labels
from ssl_cls.errors import UserError


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
