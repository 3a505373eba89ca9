"""Fetching and unpacking what others have published: resumed, checked, and never outside of its folder."""

import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ssl_cls.data import archives, download
from ssl_cls.data.archives import unpack
from ssl_cls.data.entry import Download, Entry, require
from ssl_cls.errors import UserError

FILES = {"images/a.png": b"picture" * 99, "labels.txt": b"1\n"}


def tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as packed:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                packed.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes], attributes: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes
            packed.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def special(kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo("x")
    info.type, info.linkname = kind, target
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pack", [tar, functools.partial(tar, mode="w"), zipped])
def test_plain_archives_are_unpacked_beside_what_is_there(tmp_path: Path, pack: Callable[..., Path]) -> None:
    into = tmp_path / "into"
    (into / "images").mkdir(parents=True)
    (into / "images" / "b.png").write_bytes(b"old")
    unpack(pack(tmp_path / "x", FILES), into)
    assert contents(into) == FILES | {"images/b.png": b"old"}


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "tar climbs": lambda path: tar(path, FILES | {"../evil": b"x"}),
    "tar climbs inside": lambda path: tar(path, FILES | {"images/../../evil": b"x"}),
    "tar absolute": lambda path: tar(path, FILES | {"/tmp/evil": b"x"}),
    "symbolic link": lambda path: tar(path, FILES | {"x": special(tarfile.SYMTYPE)}),
    "hard link": lambda path: tar(path, FILES | {"x": special(tarfile.LNKTYPE)}),
    "device": lambda path: tar(path, FILES | {"x": special(tarfile.CHRTYPE)}),
    "fifo": lambda path: tar(path, FILES | {"x": special(tarfile.FIFOTYPE)}),
    "zip climbs": lambda path: zipped(path, FILES | {"../evil": b"x"}),
    "zip absolute": lambda path: zipped(path, FILES | {"/tmp/evil": b"x"}),
    "zip link": lambda path: zipped(path, {"x": b"/etc/passwd"}, 0o120777 << 16),
    "bomb": lambda path: tar(path, FILES | {"x": bytes(2**22)}),
    "zip bomb": lambda path: zipped(path, FILES | {"x": bytes(2**22)}),
    "file in a file": lambda path: tar(path, FILES | {"labels.txt/x": b"x"}),
    "no archive": lambda path: [path.write_bytes(b"<html>404</html>"), path][1],
    "cut": lambda path: [tar(path, {"x": bytes(range(256)) * 400}), path.write_bytes(path.read_bytes()[:-30]), path][2],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_leave_nothing(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_FREE", 2**20)
    archive, into = HOSTILE[case](tmp_path / "x"), tmp_path / "into"
    into.mkdir()
    with pytest.raises(UserError) as refused:
        unpack(archive, into)
    assert refused.value.where == str(archive)
    assert list(tmp_path.rglob("*")) == [archive, into] or sorted(tmp_path.rglob("*")) == [into, archive]


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, ranges too; breaks off after `limit` bytes of an answer."""

    limit: int | None = None
    asked: list[str | None]

    def do_GET(self) -> None:
        content = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
        asked = self.headers.get("Range")
        type(self).asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(content) and asked:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: type(self).limit])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, type[Server]]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("Own", (Server,), {"asked": [], "limit": None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/", handler
        server.shutdown()
        thread.join()


def entry(*files: Download, how: str = "") -> Entry:
    def read(folder: Path, part: str) -> None:
        raise AssertionError("nothing is read here")

    return Entry("A set", "http://example", "none", read, {}, 0, ("images/a.png", "labels.txt"), files, how)  # type: ignore[arg-type]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, served: tuple[Path, str, type[Server]]) -> None:
    folder, url, handler = served
    archive = tar(folder / "x.tar", {"images/a.png": bytes(range(256)) * 4000}, "w")
    (folder / "labels.txt").write_bytes(FILES["labels.txt"])
    own = entry(Download(f"{url}labels.txt"), Download(f"{url}x.tar", md5(archive), archive=True))
    handler.limit = 400_000
    with pytest.raises(UserError, match="broke off after 400,000 of") as refused:
        download.get("tiny", own, tmp_path)
    assert "run it again" in refused.value.fix
    assert sorted(contents(tmp_path / "tiny")) == [".lock", "labels.txt", "x.tar.part"]
    handler.limit = None
    place = download.get("tiny", own, tmp_path)
    assert handler.asked == [None, None, "bytes=400000-"]
    assert contents(place) == {".lock": b"", "labels.txt": b"1\n", "images/a.png": bytes(range(256)) * 4000}
    assert download.get("tiny", own, tmp_path) == place
    assert len(handler.asked) == 3


@pytest.mark.parametrize("archive", [True, False])
def test_another_checksum_is_refused_each_time_and_names_the_file(
    archive: bool, tmp_path: Path, served: tuple[Path, str, type[Server]]
) -> None:
    folder, url, _ = served
    tar(folder / "x.tgz", FILES)
    own = replace(entry(Download(f"{url}x.tgz", "0" * 32, archive=archive)), needs=("images" if archive else "x.tgz",))
    said = r"x.tgz is not the published file: its MD5 is [0-9a-f]{32}, not 0{32}"
    for _ in range(3):
        with pytest.raises(UserError, match=said) as no:
            download.get("tiny", own, tmp_path)
        assert no.value.where == str(tmp_path / "tiny" / "x.tgz.part")
        assert sorted(contents(tmp_path / "tiny")) == [".lock", "x.tgz.part"]  # nothing of it was unpacked
    (tmp_path / "tiny" / "x.tgz.part").rename(tmp_path / "tiny" / "x.tgz")  # as if a person had put it there
    for _ in range(2):
        with pytest.raises(UserError, match=said):
            download.get("tiny", own, tmp_path)


def test_an_archive_that_is_unpacked_is_not_fetched_again_where_the_next_one_fails(
    tmp_path: Path, served: tuple[Path, str, type[Server]]
) -> None:
    folder, url, handler = served
    tar(folder / "first.tgz", {"images/a.png": b"a"})
    (folder / "second.tgz").write_bytes(b"")
    own = entry(Download(f"{url}first.tgz", None, True), Download(f"{url}second.tgz", None, True))
    for _ in range(2):
        with pytest.raises(UserError, match="second"):
            download.get("tiny", own, tmp_path)
        (tmp_path / "tiny" / "second.tgz").unlink()
    (tmp_path / "tiny" / ".unpacking-killed").mkdir()
    tar(folder / "second.tgz", {"labels.txt": b"1"})
    place = download.get("tiny", own, tmp_path)
    assert contents(place) == {".lock": b"", "images/a.png": b"a", "labels.txt": b"1"}
    assert not (place / ".unpacking-killed").exists()
    assert len(handler.asked) == 4
    (place / "images" / "a.png").unlink()  # no mark is left that would keep it from being fetched
    assert contents(download.get("tiny", own, tmp_path))["images/a.png"] == b"a"


def test_a_kill_while_files_are_moved_to_their_places_does_not_look_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    tar(tmp_path / "tiny" / "x.tgz", FILES)
    own = replace(entry(Download("http://127.0.0.1:9/x.tgz", None, archive=True)), needs=("images",))
    merge, iterdir = archives._merge, Path.iterdir

    def killed(source: Path, target: Path) -> None:
        if source.name == "labels.txt":
            raise KeyboardInterrupt
        merge(source, target)

    order = sorted(FILES)  # images first, then labels.txt
    monkeypatch.setattr(archives, "_merge", killed)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(iterdir(path))))
    with pytest.raises(KeyboardInterrupt):
        download.get("tiny", own, tmp_path)
    assert (tmp_path / "tiny" / order[0]).exists()
    with pytest.raises(UserError, match="A set is not there"):
        require("tiny", own, tmp_path)
    monkeypatch.undo()
    assert contents(download.get("tiny", own, tmp_path)) == FILES | {".lock": b""}


def test_files_put_there_by_hand_are_checked_and_used(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    archive = tar(tmp_path / "tiny" / "x.tgz", FILES)
    place = download.get("tiny", entry(Download("http://127.0.0.1:9/x.tgz", md5(archive), archive=True)), tmp_path)
    assert contents(place) == FILES | {".lock": b""}


def test_what_needs_a_login_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"A set is not there: no images/a\.png, labels\.txt") as refused:
        download.get("tiny", entry(how="log in and put it there"), tmp_path)
    assert (refused.value.where, refused.value.fix) == (str(tmp_path / "tiny"), "log in and put it there")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.tgz", "missing"])
def test_no_network_is_one_screen(tmp_path: Path, url: str, served: tuple[Path, str, type[Server]]) -> None:
    with pytest.raises(UserError, match="A set could not be fetched: http") as refused:
        download.get("tiny", entry(Download(url if url.startswith("http") else f"{served[1]}x", None, True)), tmp_path)
    assert "http://example" in refused.value.fix


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    tar(tmp_path / "tiny" / "x.tgz", FILES)
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **more: object) -> object:
        if mode == "xb" and path.name == "labels.txt":
            raise OSError(28, "No space left on device")
        return opened(path, mode, *rest, **more)  # type: ignore[arg-type, call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="No space left on device"):
        download.get("tiny", entry(Download("http://127.0.0.1:9/x.tgz", None, archive=True)), tmp_path)
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == [".lock", "x.tgz"]
