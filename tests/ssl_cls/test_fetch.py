"""Getting data: the right bytes or none, whoever asks, however often."""

import gzip
import hashlib
import http.server
import io
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from ssl_cls.data import fetch
from ssl_cls.data.fetch import File, Published
from ssl_cls.errors import UserError

CONTENT = {"train-images": bytes(range(256)) * 40, "train-labels": b"\0\1\2" * 100}


class Way:
    """Stands in for a download."""

    def __init__(
        self,
        name: str,
        content: dict[str, bytes] | Exception = CONTENT,
        packed: bool = True,
        seconds: float = 0.0,
    ) -> None:
        self.__name__ = f"from_{name}"
        self.content, self.packed, self.seconds, self.calls = content, packed, seconds, 0

    def __call__(self, data: Published, into: Path) -> None:
        self.calls += 1
        time.sleep(self.seconds)
        if isinstance(self.content, Exception):
            raise self.content
        for name, value in self.content.items():
            (into / f"{name}.gz").write_bytes(gzip.compress(value) if self.packed else value)


def published(*ways: fetch.Way) -> Published:
    files = {name: File(len(value), hashlib.sha256(value).hexdigest()) for name, value in CONTENT.items()}
    return Published("tiny_set", files, ways)


def assert_complete(root: Path) -> None:
    assert {p.name: p.read_bytes() for p in (root / "tiny_set").iterdir() if p.name != ".lock"} == CONTENT


def test_files_are_fetched_once_and_then_left_alone(tmp_path: Path) -> None:
    way = Way("mirrors")
    folder = fetch.get(published(way), tmp_path)
    times = [p.stat().st_mtime_ns for p in folder.iterdir()]
    assert fetch.get(published(way), tmp_path) == folder == tmp_path / "tiny_set"
    assert way.calls == 1
    assert [p.stat().st_mtime_ns for p in folder.iterdir()] == times
    assert_complete(tmp_path)


FAILURES = {
    "offline": Way("mirrors", OSError("no route to host")),
    "tool fails": Way("mirrors", subprocess.TimeoutExpired("apt-get", 1)),
    "one file missing": Way("mirrors", {"train-images": CONTENT["train-images"]}),
    "a bit flipped": Way("mirrors", CONTENT | {"train-images": b"\1" + CONTENT["train-images"][1:]}),
    "too short": Way("mirrors", CONTENT | {"train-images": CONTENT["train-images"][:-1]}),
    "a bomb": Way("mirrors", CONTENT | {"train-images": bytes(10**8)}),
    "an error page": Way("mirrors", dict.fromkeys(CONTENT, b"<html>404</html>"), packed=False),
    "cut off": Way("mirrors", {n: gzip.compress(v)[:-20] for n, v in CONTENT.items()}, packed=False),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_way_that_fails_leads_to_the_next_and_leaves_nothing_behind(tmp_path: Path, failure: str) -> None:
    second = Way("debian")
    fetch.get(published(FAILURES[failure], second), tmp_path)
    assert second.calls == 1
    assert_complete(tmp_path)


def test_when_no_way_leads_there_the_user_is_told_which_files_to_put_where(tmp_path: Path) -> None:
    ways = (FAILURES["offline"], FAILURES["one file missing"])
    with pytest.raises(UserError, match="mirrors: no route to host") as refused:
        fetch.get(published(*ways), tmp_path)
    assert refused.value.where == str(tmp_path / "tiny_set")
    # what the second way brought is right and stays; only the other is asked for
    assert "train-labels.gz" in refused.value.fix
    assert "train-images.gz" not in refused.value.fix
    (tmp_path / "tiny_set" / "train-labels.gz").write_bytes(gzip.compress(CONTENT["train-labels"], 1))
    fetch.get(published(*ways), tmp_path)
    assert (tmp_path / "tiny_set" / "train-labels").read_bytes() == CONTENT["train-labels"]


def test_damage_on_disk_is_found_and_repaired(tmp_path: Path) -> None:
    way = Way("mirrors")
    folder = fetch.get(published(way), tmp_path)
    whole = CONTENT["train-images"]
    (folder / "train-images").write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    fetch.get(published(way), tmp_path)
    assert_complete(tmp_path)


def test_eight_at_once_fetch_once(tmp_path: Path) -> None:
    way = Way("mirrors", seconds=0.3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fetch.get(published(way), tmp_path), range(8)))
    assert way.calls == 1
    assert_complete(tmp_path)


def test_a_relative_folder_is_where_it_seems_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch.get(published(Way("mirrors")), Path("data")) == tmp_path / "data" / "tiny_set"


def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        fetch.get(published(Way("mirrors")), tmp_path / "data")


def test_an_endless_download_is_cut_off(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        served = 0

        def read(self, size: int = -1) -> bytes:
            self.served += size
            assert self.served < 10 * size
            return bytes(size)

    with pytest.raises(OSError, match="longer than the published file"):
        fetch._copy(Endless(), tmp_path / "x", at_most=3 << 20)  # type: ignore[arg-type]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served in the place of torchvision's mirrors, after one that does not answer."""
    from torchvision.datasets import FashionMNIST

    served = tmp_path / "served"
    served.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/", address])
        yield served
        server.shutdown()
        thread.join()


def test_mirrors_are_tried_in_turn(tmp_path: Path, mirror: Path) -> None:
    Way("any")(published(), mirror)
    fetch.get(published(fetch.from_mirrors), tmp_path)
    assert_complete(tmp_path)


def test_a_mirror_without_the_files_is_a_failure(tmp_path: Path, mirror: Path) -> None:
    with pytest.raises(UserError, match=r"mirrors: http://127.0.0.1:\d+/: HTTP Error 404"):
        fetch.get(published(fetch.from_mirrors), tmp_path)


def test_the_debian_package_is_unpacked_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, source = tmp_path / "bin", tmp_path / "source"
    programs.mkdir()
    source.mkdir()
    Way("any")(published(), source)
    scripts = {
        "apt-get": '[ "$*" = "download dataset-tiny-set" ] && touch dataset-tiny-set_1_all.deb',
        "dpkg-deb": f'[ -e "$2" ] && mkdir -p "$3/usr/share" && cp {source}/*.gz "$3/usr/share"',
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    fetch.get(published(fetch.from_debian), Path("data"))
    assert_complete(tmp_path / "data")


def test_without_debians_tools_the_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(UserError, match="debian: no apt-get on this machine"):
        fetch.get(published(fetch.from_debian), tmp_path)
