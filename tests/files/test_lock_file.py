"""The lock of a file: who has it, what it says, and that nothing but the holder's end or word gives it back."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from tenantry.files import lock_file
from tenantry.files.lock_file import LockFile, LockHeldError, read_holder, remove_abandoned
from tenants import open_files, python, read_line

HOLDER = """
import os, signal, sys
from pathlib import Path
from tenantry.files.lock_file import LockFile

lock = LockFile(Path(sys.argv[1]))
lock.acquire()
if sys.argv[2] == "fork" and os.fork() == 0:
    assert not lock.is_held
    lock.release()
    lock.remove()
    print(os.getpid(), flush=True)
    signal.pause()
print("held", flush=True) if sys.argv[2] == "alone" else None
signal.pause()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the lock is."""
    return tmp_path / "lock"


def test_one_holder_at_a_time(path: Path):
    """The second is refused, at once and with the holder's name; after the release it is taken."""
    first, second = LockFile(path), LockFile(path)
    assert first.acquire() == b""
    assert (first.is_held, second.is_held) == (True, False)
    with pytest.raises(
        LockHeldError, match=f"held by process {os.getpid()} on {os.uname().nodename}"
    ) as caught:
        second.acquire()
    assert (caught.value.pid, caught.value.host) == (os.getpid(), os.uname().nodename)
    assert not second.is_held
    assert open_files(path.parent) == [str(path)]
    first.release()
    assert not first.is_held
    second.acquire()
    second.release()
    assert open_files(path.parent) == []


def test_what_the_last_holder_left(path: Path):
    """The next holder is given the content; without a word of the last its name is still there."""
    lock = LockFile(path)
    lock.acquire()
    lock.release(b"all is well")
    assert lock.read() == b"all is well"
    assert lock.acquire() == b"all is well"
    lock.release()
    assert read_holder(lock.acquire()) == (os.getpid(), os.uname().nodename, None)
    assert read_holder(lock.read()) == (os.getpid(), os.uname().nodename, None)
    lock.release(b"x" * 500)
    assert lock.read() == b"x" * 127
    assert path.stat().st_size == 128


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"5", b'{"pid": "x", "host": 1}', b'{"pid": null}', b"\xff\0", b"\n"]
)
def test_content_that_names_nobody(path: Path, content: bytes):
    """A holder that has not written its name yet, or wrote nonsense, is a holder all the same."""
    assert read_holder(content) == (None, None, None)
    lock = LockFile(path)
    lock.acquire()
    path.write_bytes(content)
    with pytest.raises(LockHeldError, match="held by process unknown on this host") as caught:
        LockFile(path).acquire()
    assert (caught.value.pid, caught.value.host) == (None, None)
    lock.release()


def test_release_and_remove_can_be_repeated(path: Path):
    """What is not held is neither given back nor removed: it may be another's by now."""
    lock, other = LockFile(path), LockFile(path)
    lock.release()
    lock.remove()
    lock.acquire()
    lock.remove()
    assert not path.exists()
    other.acquire()
    lock.release()
    lock.remove()
    assert path.exists()
    with pytest.raises(LockHeldError):
        lock.acquire()
    other.release()


def test_reading_what_is_not_there(path: Path):
    """A lock that nobody ever took says nothing."""
    assert LockFile(path).read() == b""


def test_the_file_is_private(path: Path):
    """Nobody else may open it, whatever the umask is."""
    umask = os.umask(0)
    try:
        LockFile(path).acquire()
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    remove_held(path)


def test_a_removed_file_locks_nobody_out(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever locks a file that is removed at that moment takes the one that is at the path instead."""
    real, calls = lock_file.fcntl.flock, []

    def flock(fd: int, operation: int) -> None:
        real(fd, operation)
        if not calls:
            path.unlink()
        calls.append(fd)

    monkeypatch.setattr(lock_file.fcntl, "flock", flock)
    lock = LockFile(path)
    lock.acquire()
    assert len(calls) == 2
    with pytest.raises(LockHeldError):
        LockFile(path).acquire()
    lock.release()
    assert open_files(path.parent) == []


@pytest.mark.parametrize("failing", ["flock", "pread", "pwrite"])
def test_a_file_system_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch, failing: str):
    """On the way to the lock it leaves none, and no open file; later it can be taken."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = LockFile(path)
    with monkeypatch.context() as patched:
        patched.setattr(lock_file.fcntl if failing == "flock" else lock_file.os, failing, fail)
        with pytest.raises(OSError, match="No space"):
            lock.acquire()
    assert not lock.is_held
    assert open_files(path.parent) == []
    lock.acquire()
    lock.release()


def test_a_file_that_cannot_be_removed(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The lock is given back all the same, or nobody could ever take it."""

    def fail(_: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    lock = LockFile(path)
    lock.acquire()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail)
        lock.remove()
    assert not lock.is_held
    LockFile(path).acquire()
    remove_held(path)


def test_a_link_is_not_followed(path: Path, tmp_path: Path):
    """What it points to is neither made nor locked."""
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        LockFile(path).acquire()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("way", ["alone", "fork"])
def test_it_ends_with_its_process(path: Path, way: str):
    """Kill -9 frees it at once; a forked child has no part in it, and cannot give it back for its parent."""
    with python(HOLDER, path, way) as process:
        child = read_line(process)
        with pytest.raises(LockHeldError) as caught:
            LockFile(path).acquire()
        assert caught.value.pid == process.pid
        process.kill()
        process.wait()
        lock = LockFile(path)
        assert read_holder(lock.acquire())[0] == process.pid
        lock.release()
        if way == "fork":
            os.kill(int(child), signal.SIGKILL)  # it lived until now


def test_locks_of_the_dead_are_removed(tmp_path: Path):
    """Of a directory's locks those go that nobody holds, also those whose holders died before they wrote their names."""
    held = LockFile(tmp_path / "held")
    held.acquire()
    (tmp_path / "dead").write_text(json.dumps({"pid": 1, "host": "gone"}))
    (tmp_path / "new").touch()
    (tmp_path / "directory").mkdir()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"held", "directory"}
    assert open_files(tmp_path) == [str(held.path)]
    held.remove()


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_lock_that_is_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch, *, is_removed: bool):
    """A caller that meets another who looks whether a new lock is abandoned is not refused: it takes the lock a moment later."""
    sweeper = LockFile(path)
    sweeper.acquire(is_named=False)

    def end_look(_: float) -> None:
        if is_removed:
            sweeper.remove()
        else:
            sweeper.release()

    monkeypatch.setattr(lock_file.time, "sleep", end_look)
    lock = LockFile(path)
    assert lock.acquire() == b""
    assert read_holder(lock.read()) == (os.getpid(), os.uname().nodename, None)
    lock.remove()


def remove_held(path: Path) -> None:
    """Give a lock of this process back that nobody has a name for."""
    [lock] = [lock for lock in lock_file._held if lock.path == path]
    lock.remove()
