"""Fetch the files of a published data set: resumed where they broke off, and checked before they count."""

import hashlib
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from ssl_cls.data.archives import remove_stale, unpack
from ssl_cls.data.entry import Download, Entry, missing, place, require
from ssl_cls.data.fetch import locked
from ssl_cls.errors import UserError

_CONNECT_SECONDS = 20
_QUIET_SECONDS = 10.0
_CHUNK = 1 << 20


def get(name: str, entry: Entry, root: Path) -> Path:
    """The folder of a data set below `root` with everything that reading needs; what is missing is fetched.

    Archives are unpacked and then deleted. Files that a person has put there are used. Again: nothing to do, but
    to compare the checksums of files that are not archives.

    Raises:
        UserError: it cannot be fetched without a person (says how), the network fails, a checksum is wrong, or
            the disk is full. What was fetched so far is kept, and the next call goes on from there.
    """
    folder = place(name, entry, root)
    if not missing(entry, folder) or not entry.get:
        for file in entry.get:
            if not file.archive and (folder / file.name).exists():
                check(file, folder / file.name)
        return require(name, entry, root)
    with locked(folder):
        # an archive that is unpacked is deleted: until all are, a mark says that it need not be fetched again
        marks = {file: folder / f".{file.name}.unpacked" for file in entry.get if file.archive}
        try:
            remove_stale(folder)
            for file in entry.get if missing(entry, folder) else ():
                if file in marks and marks[file].exists():
                    continue
                target = folder / file.name
                if target.exists():
                    check(file, target)
                else:
                    _fetch(file, folder)
                if file.archive:
                    unpack(target, folder)
                    marks[file].touch()
                    target.unlink()
            for mark in marks.values():
                mark.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{entry.title} could not be fetched: {error.strerror or error}",
                str(folder),
                f"run it again to go on; or from {entry.url} put {', '.join(f.name for f in entry.get)} there",
            ) from error
    return require(name, entry, root)


def check(file: Download, path: Path) -> None:
    """Compare `path` with the MD5 sum of `file` that its authors published, if they did.

    Raises:
        UserError: it is another. The file is left as it is.
    """
    if file.md5 is None:
        return
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != file.md5:
        raise UserError(
            f"{file.name} is not the published file: its MD5 is {found}, not {file.md5}",
            str(path),
            "delete it and fetch it again",
        )


def _fetch(file: Download, folder: Path) -> None:
    """Download to NAME.part, from where it broke off, and give it its name when it is whole and the published one."""
    partial = folder / f"{file.name}.part"
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_CONNECT_SECONDS) as answer:
            have = have if answer.status == 206 else 0  # else the server sends it from the start
            length = answer.headers.get("Content-Length")
            expected = have + int(length) if length else None
            said = 0.0
            with partial.open("ab" if have else "wb") as target:
                while chunk := answer.read(_CHUNK):
                    target.write(chunk)
                    have += len(chunk)
                    if time.monotonic() - said > _QUIET_SECONDS:
                        whole = f" of {expected / 1e6:,.0f}" if expected else ""
                        print(f"getting {file.url}: {have / 1e6:,.0f}{whole} MB", file=sys.stderr, flush=True)
                        said = time.monotonic()
    except HTTPException as error:
        raise OSError(f"{file.url}: {error!r}") from error
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left to send
            raise OSError(f"{file.url}: {error}") from error
        expected = have
    except urllib.error.URLError as error:
        raise OSError(f"{file.url}: {error.reason}") from error
    if expected is not None and have != expected:
        raise OSError(f"{file.url}: broke off after {have:,} of {expected:,} bytes")
    check(file, partial)
    partial.replace(folder / file.name)
