"""Unpack tar and zip files that others have made: only plain files, only below the folder, or nothing at all."""

import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ssl_cls.data.entry import MERGING
from ssl_cls.data.files import below, shown
from ssl_cls.errors import UserError

_MAX_GROWTH = 200  # times its own size that an archive may become: text packs 10:1, a bomb 1000:1
_FREE = 2**30  # bytes that any archive may become
_CHUNK = 2**20
_UNPACKING = ".unpacking-"
# RuntimeError: encrypted, or packed in a way that is not known
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


def unpack(archive: Path, into: Path) -> None:
    """Unpack `archive` below `into`; what it holds appears there only when all of it is unpacked.

    Where a process ends while it is moved to its place, a file .merging-NAME tells so.

    Raises:
        UserError: no archive that can be read; a member that is a link, a device, or leads out of the folder;
            more than can be honest. Nothing of it is left then.
        OSError: the disk is full.
    """
    left = max(_FREE, _MAX_GROWTH * archive.stat().st_size)
    with tempfile.TemporaryDirectory(prefix=_UNPACKING, dir=into) as temporary:
        try:
            for name, file in _members(archive):
                path = Path(temporary) / below(name, str(archive))
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as target:
                    while chunk := file.read(_CHUNK):
                        left -= len(chunk)
                        if left < 0:
                            raise _refused(f"grows to more than {_MAX_GROWTH} times its size", archive)
                        target.write(chunk)
        except (*_DAMAGE, FileExistsError, NotADirectoryError) as error:
            raise _refused(f"cannot be unpacked: {error}", archive) from error
        mark = into / f"{MERGING}{archive.name}"
        mark.touch()
        for top in Path(temporary).iterdir():
            _merge(top, into / top.name)
        mark.unlink()


def remove_stale(folder: Path) -> None:
    """What processes that were killed while they unpacked archives have left in `folder`."""
    for stale in folder.glob(f"{_UNPACKING}*"):
        shutil.rmtree(stale)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each plain file, in order; folders are made as files need them."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise _refused(f"holds a link, {shown(info.filename)}", archive)
                if not info.is_dir():
                    with packed.open(info) as file:
                        yield info.filename, file
        return
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isdir():
                continue
            content = opened.extractfile(member) if member.isreg() else None
            if content is None:
                raise _refused(f"holds {shown(member.name)}, which is no plain file", archive)
            yield member.name, content


def _merge(source: Path, target: Path) -> None:
    """Move `source` to `target`, into a folder that is there already; files of the same name are replaced."""
    if not (source.is_dir() and target.is_dir()):
        if target.is_dir():
            shutil.rmtree(target)
        source.replace(target)
        return
    for path in source.iterdir():
        _merge(path, target / path.name)


def _refused(what: str, archive: Path) -> UserError:
    return UserError(f"the archive {what}", str(archive), "delete it; get it again from the authors' own page")
