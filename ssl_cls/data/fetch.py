"""Get published data sets onto the disk, checked byte for byte; no archive chooses a path."""

import fcntl
import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO

from ssl_cls.errors import UserError

_CONNECT_SECONDS = 5  # an offline machine loses this much, and no more, to each mirror
_PACKAGE_SECONDS = 300
_CHUNK = 1 << 20

Way = Callable[["Published", Path], None]


@dataclass(frozen=True)
class File:
    size: int  # of the decompressed bytes, as is the hash: packers differ in how they compress
    sha256: str


@dataclass(frozen=True)
class Published:
    """A data set as its authors published it: single gzipped files, and the ways to get them, in order.

    A way puts NAME.gz of every file into a folder, or raises OSError or subprocess.SubprocessError.
    """

    name: str
    files: dict[str, File]
    ways: tuple[Way, ...]


def from_mirrors(data: Published, into: Path) -> None:
    """Download from the servers that torchvision knows; plain HTTP will do, since hashes decide."""
    failure = OSError("torchvision names no mirrors")
    for mirror in mirrors():
        try:
            for name, file in data.files.items():
                with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=_CONNECT_SECONDS) as answer:
                    _copy(answer, into / f"{name}.gz", at_most=file.size + _CHUNK)
            return
        except (OSError, HTTPException) as error:
            failure = OSError(f"{mirror}: {error}")
    raise failure


def mirrors() -> list[str]:
    """Of Fashion-MNIST."""
    from torchvision.datasets import FashionMNIST

    return list(FashionMNIST.mirrors)


def from_debian(data: Published, into: Path) -> None:
    """Download Debian's package, whose signature apt checks, and unpack it; neither needs root."""
    package = "dataset-" + data.name.replace("_", "-")
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        raise OSError(f"no {missing[0]} on this machine")
    _quietly("apt-get", "download", package, folder=into)
    _quietly("dpkg-deb", "-x", str(next(into.glob("*.deb"))), "unpacked", folder=into)
    for name in data.files:
        found = next((into / "unpacked").rglob(f"{name}.gz"), None)
        if found is None:
            raise OSError(f"{package} has no {name}.gz")
        found.replace(into / f"{name}.gz")


def _quietly(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, timeout=_PACKAGE_SECONDS, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(lines[-1] if lines else f"{command[0]} failed with status {done.returncode}")


FASHION_MNIST = Published(
    "fashion_mnist",
    {
        "train-images-idx3-ubyte": File(47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        "train-labels-idx1-ubyte": File(60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        "t10k-images-idx3-ubyte": File(7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        "t10k-labels-idx1-ubyte": File(10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    },
    (from_mirrors, from_debian),
)


def get(data: Published, root: Path) -> Path:
    """The folder root/NAME with every file of `data` in it, decompressed and verified; fetched if need be.

    Files that a person has put there, as NAME or NAME.gz, are used. Several processes may call it at once,
    and again: what is right is left alone, and files appear whole or not at all.

    Raises:
        UserError: no way leads to the right bytes; says which files to put where.
    """
    folder = (root / data.name).resolve()  # commands run elsewhere
    if not _wrong(data, folder):
        return folder
    with locked(folder):
        if not _wrong(data, folder):  # another process was faster
            return folder
        failures = [] if _unpack(data, folder, folder) else _try_ways(data, folder)
        if wrong := _wrong(data, folder):
            raise UserError(
                f"{data.name} could not be fetched: " + "; ".join(failures),
                str(folder),
                f"put {', '.join(f'{name}.gz' for name in wrong)} there, as published, and try again",
            )
    return folder


def _try_ways(data: Published, folder: Path) -> list[str]:
    """Stop at the first way that brings the right bytes; why the others failed."""
    failures = []
    for way in data.ways:
        label = way.__name__.removeprefix("from_")
        print(f"getting {data.name} ({label}) into {folder}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
            try:
                way(data, Path(temporary))
                if _unpack(data, Path(temporary), folder):
                    return []
                failures.append(f"{label}: its files are not the published ones")
            except (OSError, subprocess.SubprocessError) as error:
                failures.append(f"{label}: {error}")
    return failures


def _wrong(data: Published, folder: Path) -> list[str]:
    """The files that are missing or whose bytes are not the published ones."""
    return [name for name, file in data.files.items() if not _is(folder / name, file)]


def _is(path: Path, file: File) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def _unpack(data: Published, source: Path, folder: Path) -> bool:
    """Decompress from `source` what is still wrong in `folder`; True when nothing is wrong any more."""
    for name in _wrong(data, folder):
        packed, writing = source / f"{name}.gz", folder / f".{name}.tmp"
        if not packed.is_file():
            continue
        try:
            with gzip.open(packed) as opened:
                _copy(opened, writing, at_most=data.files[name].size)
        except (OSError, EOFError, ValueError):  # not gzip, cut short, or more than it should be
            continue
        finally:
            if _is(writing, data.files[name]):
                writing.replace(folder / name)
            writing.unlink(missing_ok=True)
    return not _wrong(data, folder)


def _copy(source: IO[bytes] | gzip.GzipFile, to: Path, at_most: int) -> None:
    """Copy a stream whose honest length is known, so that a dishonest one cannot fill the disk."""
    with to.open("wb") as file:
        copied = 0
        while chunk := source.read(_CHUNK):
            copied += len(chunk)
            if copied > at_most:
                raise OSError(f"{to.name} is longer than the published file")
            file.write(chunk)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time fetches into `folder`; the others wait here."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"the folder for data cannot be written: {error.strerror}",
            str(folder),
            "choose another with data.path=DIR",
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
