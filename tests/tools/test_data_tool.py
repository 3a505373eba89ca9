"""tools/data.py as a person meets it."""

import gzip
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_cls.data import fetch
from ssl_cls.data.entries import ENTRIES
from ssl_cls.data.files import Files
from ssl_cls.data.own import open_own
from ssl_cls.data.packed import Packed
from ssl_cls.data.source import all_labels

TOOL = Path(__file__).parents[2] / "tools" / "data.py"


def in_process(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The tool's exit status; for tests that replace what it would download."""
    namespace: dict[str, object] = {"__name__": "data_tool"}
    exec(compile(TOOL.read_text(), TOOL, "exec"), namespace)
    monkeypatch.setattr(sys, "argv", ["data.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        namespace["main"]()  # type: ignore[operator]
    return int(ended.value.code or 0)


def test_help_and_usage_errors_need_no_torch() -> None:
    program = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'ssl_cls', 'numpy'} & set(sys.modules)))"
    )
    for arguments, status in ((["--help"], 0), (["get"], 2), (["verify", "folder"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", program.replace("sys.argv[1]", repr(str(TOOL))), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.splitlines()[-1] == f"{status} []"


def test_get_fetches_verifies_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"some bytes"

    def from_nowhere(data: fetch.Published, into: Path) -> None:
        (into / "one.gz").write_bytes(gzip.compress(content))

    files = {"one": fetch.File(len(content), hashlib.sha256(content).hexdigest())}
    monkeypatch.setattr(fetch, "FASHION_MNIST", fetch.Published("fashion_mnist", files, (from_nowhere,)))
    assert in_process(monkeypatch, "get", "fashion_mnist", "--dir", str(tmp_path)) == 0
    first = capsys.readouterr()
    assert f"{tmp_path / 'fashion_mnist'}, verified" in first.out
    assert "getting" in first.err
    assert in_process(monkeypatch, "get", "fashion_mnist", "--dir", str(tmp_path)) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (first.out, "")


def test_get_without_a_way_is_one_screen_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"one": fetch.File(1, "0" * 64)}
    monkeypatch.setattr(fetch, "FASHION_MNIST", fetch.Published("fashion_mnist", files, ()))
    assert in_process(monkeypatch, "get", "fashion_mnist", "--dir", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "put one.gz there" in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said


def test_check_counts_and_measures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_process(monkeypatch, "verify", "digits") == 0
    rows = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    table = {cells[1]: cells[2:-1] for cells in rows if len(cells) > 3}
    assert table["images"] == ["1,294", "144", "359"]
    digits = [[int(cell) for cell in table[str(digit)]] for digit in range(10)]
    assert [sum(split) for split in zip(*digits, strict=True)] == [1294, 144, 359]
    assert [sum(digit) for digit in digits] == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # as UCI counts them
    assert table["mean"][0].startswith("0.30")


def test_check_names_every_damaged_image_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        Image.fromarray(np.full((9, 9, 3), 51, np.uint8)).save(tmp_path / f"{number}.png")
    whole = (tmp_path / "7.png").read_bytes()
    (tmp_path / "7.png").write_bytes(whole[:-30])
    (tmp_path / "[red]8.png").write_bytes(b"")
    assert in_process(monkeypatch, "verify", "folder", "--dir", str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "0.2000 0.2000 0.2000" in said
    bad = [line for line in said.splitlines() if line.startswith("cannot be read: ")]
    assert [line.split()[3] for line in sorted(bad)] == ["7.png:", "[red]8.png:"]
    assert in_process(monkeypatch, "verify", "folder", "--dir", str(tmp_path / "none")) == 2


def test_every_data_set_is_listed_with_whether_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert in_process(monkeypatch, "list", "--dir", str(tmp_path)) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(ENTRIES) | {"name"} == set(rows)
    assert "1,331,167" in rows["imagenet"]
    assert rows["imagenet"].rstrip().endswith("by hand")
    assert rows["fashion_mnist"].rstrip().endswith("by need")


@pytest.mark.parametrize("name", ENTRIES)
def test_info_says_where_from_on_what_terms_and_what_is_wrong(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(monkeypatch, "info", name, "--dir", str(tmp_path)) == 0
    said, entry = capsys.readouterr().out, ENTRIES[name]
    assert entry.url in said
    assert entry.licence in said
    assert entry.how in said
    assert all(path in said for path in entry.needs)
    assert all(f"{file.url}  MD5 {file.md5 or 'unknown'}" in said for file in entry.get)
    assert ("flips" in said) is not entry.flip


def test_a_name_that_is_none_is_answered_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("info", "get", "verify"):
        assert in_process(monkeypatch, command, "cifar-10") == 2
        assert "did you mean cifar10?" in capsys.readouterr().err


def test_verify_tells_when_counts_are_not_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Forest", "River"):
        (tmp_path / "eurosat" / "2750" / name).mkdir(parents=True)
        for number in range(20):
            image = Image.fromarray(np.full((9, 9, 3), 51, np.uint8))
            image.save(tmp_path / "eurosat" / "2750" / name / f"{number}.jpg")
    assert in_process(monkeypatch, "verify", "eurosat", "--dir", str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "40 images where 27,000 are published" in said
    assert "2 classes where 10 are published" in said


def test_pack_writes_beside_the_images_and_again_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
        image.save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png")
    command = ("pack", str(tmp_path / "photos"), "--size", "16")
    pixels = tmp_path / "photos-16.pack" / "pixels.bin"
    assert in_process(monkeypatch, *command) == 0
    assert f"data.path={tmp_path / 'photos-16.pack'}" in capsys.readouterr().out
    assert pixels.stat().st_size == 40 * 16 * 20 * 3
    assert in_process(monkeypatch, *command) == 0
    assert "is there already, and whole" in capsys.readouterr().out
    content = bytearray(pixels.read_bytes())
    content[7] ^= 1
    pixels.write_bytes(content)
    assert in_process(monkeypatch, *command) == 1
    assert "have changed" in capsys.readouterr().out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """40 images in one folder, and labels.csv beside it for half of them."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(tmp_path / "photos" / f"{number:02}.png")
    rows = [f"{number:02}.png,{'ab'[number % 2]}" for number in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return tmp_path / "photos"


def labels_of(root: Path) -> dict[str, int]:
    """By path, over all splits of a pack."""
    splits = [Packed(root, split) for split in ("train", "val", "test")]
    return {path: label for own in splits for path, label in zip(own.paths(), all_labels(own).tolist(), strict=True)}


def test_a_pack_of_a_partly_labelled_folder_has_its_labels_and_its_splits(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = photos.with_name("labels.csv")
    assert in_process(monkeypatch, "pack", str(photos), "--size", "8", f"data.labels={labels}") == 0
    packed, expected = photos.with_name("photos-8.pack"), {f"{n:02}.png": n % 2 if n < 20 else -1 for n in range(40)}
    assert labels_of(packed) == expected
    for split in ("train", "val", "test"):
        files = open_own(photos, split, 0.0, labels)
        assert isinstance(files, Files)
        assert Packed(packed, split).paths() == files.paths()


def test_a_pack_without_the_labels_that_are_given_now_is_not_called_whole(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels added or changed after packing would be missing in silence."""
    command = ("pack", str(photos), "--size", "8")
    assert in_process(monkeypatch, *command) == 0
    assert in_process(monkeypatch, *command, f"data.labels={photos.with_name('labels.csv')}") == 2
    assert "was made of other images or labels" in capsys.readouterr().err
    assert in_process(monkeypatch, *command) == 0
    for image in photos.iterdir():  # a pack may be all that is kept
        image.unlink()
    photos.rmdir()
    assert in_process(monkeypatch, *command) == 0


def test_pack_takes_data_keys_alone(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(monkeypatch, "pack", str(photos), "--size", "8", "train.epochs=3") == 2
    assert in_process(monkeypatch, "pack", str(photos), "--size", "8", "data.lables=x.csv") == 2
    assert "data.labels" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_is_wrong_with_a_split_is_said(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A split that holds no readable image is an error; one that is not there is none."""
    rng = np.random.default_rng(0)
    for own in ("train", split):
        (tmp_path / "photos" / own / "a").mkdir(parents=True)
        for number in range(9):
            image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
            image.save(tmp_path / "photos" / own / "a" / f"{number}.png")
    for path in (tmp_path / "photos" / split / "a").iterdir():
        path.write_bytes(b"no image")
    root = str(tmp_path / "photos")
    for command in (("pack", root, "--size", "8"), ("verify", "folder", "--dir", root)):
        if command[0] == "verify":
            (tmp_path / "photos" / split / "a" / "0.png").unlink()
        assert in_process(monkeypatch, *command) != 0
        assert "cannot be read" in "".join(capsys.readouterr())
    assert not (tmp_path / "photos-8.pack").exists()


def test_verify_tells_what_is_passed_over_and_takes_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        np.save(tmp_path / f"{number}.npy", np.full((9, 9), number / 20, np.float32))
    for name in ("a.heic", "b.HEIC", "c.xcf", "none"):
        (tmp_path / name).write_bytes(b"")
    assert in_process(monkeypatch, "verify", "folder", "--dir", str(tmp_path)) != 0
    assert "data.window" in "".join(capsys.readouterr())
    assert in_process(monkeypatch, "verify", "folder", "--dir", str(tmp_path), "--window", "0,1") == 0
    assert "passed over: 2 .heic, 1 without an ending, 1 .xcf" in capsys.readouterr().out


def test_info_names_classes_and_what_fashion_mnist_is_fetched_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not in_process(monkeypatch, "info", "digits")
    assert "10: 0, 1, 2" in capsys.readouterr().out
    assert not in_process(monkeypatch, "info", "fashion_mnist", "--dir", str(tmp_path))
    told = capsys.readouterr().out
    for name, file in fetch.FASHION_MNIST.files.items():
        assert f"{name}.gz  SHA-256 of what is in it {file.sha256}" in told
    assert "missing       train-images-idx3-ubyte, train-labels" in told


def test_other_classes_than_the_published_list_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"n{number:08}" for number in range(100)]
    for part in ("train", "val"):
        for name in names:
            (tmp_path / "imagenet100" / part / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / "imagenet100" / part / name / "1.png")
    classes = hashlib.sha256(" ".join(names).encode()).hexdigest()
    own = replace(ENTRIES["imagenet100"], counts={"all": 200}, classes=classes)
    assert in_process(monkeypatch, "verify", "imagenet100", "--dir", str(tmp_path)) == 1
    assert "other classes than those of" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setitem(ENTRIES, "imagenet100", own)
    assert in_process(monkeypatch, "verify", "imagenet100", "--dir", str(tmp_path)) == 0
