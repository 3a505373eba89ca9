"""A disk that fills up in the middle of a save: a small tmpfs of a user namespace, else a failpoint in its place."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

from campaign import Row, damage, lives, write_recipe
from campaign.lives import Life
from ssl_cls import checkpoint, durable

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_ROOM = 1 << 20


def mounted(folder: Path, size: int) -> bool:
    """Give this process a file system of its own at `folder`, of `size` bytes; False where the system allows none."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return not libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode())


def child(work: Callable[[], int]) -> int:
    """Its status, from a process of its own."""
    pid = os.fork()
    if not pid:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def full_save(folder: Path, room: int) -> int:
    """Save twice, the second time with `room` bytes left: 0 all was right and the disk was full, 3 it fitted."""
    damage.write(folder, 10)
    before = {path: path.read_bytes() for path in (folder / "step_00000010").iterdir()}
    status = os.statvfs(folder)
    with (folder / "filler").open("wb") as filler:
        filler.write(bytes(max(0, status.f_bavail * status.f_frsize - room)))
    try:
        damage.write(folder, 20)
    except OSError as error:
        whole = all(path.read_bytes() == content for path, content in before.items())
        newest = checkpoint.newest(folder)
        left = sorted(path.name for path in folder.iterdir())
        right = whole and newest is not None and newest.name == "step_00000010" and left == ["filler", "step_00000010"]
        return 0 if right and ("No space" in str(error) or error.errno == errno.ENOSPC) else 1
    newest = checkpoint.newest(folder)
    return 3 if newest is not None and newest.name == "step_00000020" else 1


def failing_save(folder: Path, call: int) -> int:
    """The same by a failpoint: the `call`-th of all writes and syncs of a save finds no room."""
    damage.write(folder, 10)
    calls = [0]

    def failing(original: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            calls[0] += 1
            if calls[0] == call:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args, **kwargs)

        return wrapped

    for owner, name in ((checkpoint, "save_file"), (Path, "write_text"), (durable, "sync"), (Path, "rename")):
        setattr(owner, name, failing(getattr(owner, name)))
    try:
        damage.write(folder, 20)
    except OSError:
        newest = checkpoint.newest(folder)
        return 0 if newest is not None else 1
    return 3


def full_run(folder: Path) -> Life:
    """A real run whose disk has room for its first checkpoint and no second one."""
    write_recipe(folder, "mae", dir="small/run", checkpoint_every_steps=4)
    (folder / "small").mkdir()

    def prepare() -> None:
        if not mounted(folder / "small", 150 << 10):
            raise OSError("no file system of one's own")

    return lives.forked(folder, ["mae.yaml"], prepare)


def run(tries: int, folder: Path) -> list[Row]:
    """Room from nothing to a whole save in equal steps, so that every write of it meets the end of the disk."""
    disk = folder / "disk"
    disk.mkdir()
    save = sum(path.stat().st_size for path in damage.write(folder / "measured", 10).iterdir())
    if child(lambda: 0 if mounted(disk, _ROOM) else 1) == 0:
        how, ends = "a real tmpfs in a user namespace", []
        for number in range(tries):
            room = number * save // tries
            ends.append(child(lambda room=room: full_save(disk, room) if mounted(disk, _ROOM) else 98))  # type: ignore[misc]
    else:
        how, ends = "a failpoint: this system lends no user namespace", []
        for number in range(1, 11):
            where = folder / f"failing-{number}"
            ends.append(child(lambda where=where, number=number: failing_save(where, number)))  # type: ignore[misc]
    met = [end for end in ends if end != 3]
    rows = [Row("disk full within a save", len(met), met.count(0), how)]
    if "real" in how:
        where = folder / "run"
        where.mkdir()
        life = full_run(where)
        good = life.wait(120) == 1 and "No space left" in life.said() and "Traceback" not in life.said()
        rows.append(Row("disk full within a run", 1, int(good), "warned, then ended with status 1 and one screen"))
    return rows
