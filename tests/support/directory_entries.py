"""Records which directories were changed and not synced since: what a power failure may undo.

Import it by name (``tests`` is on pytest's path): ``from directory_entries import EntryRecorder``.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class EntryRecorder:
    """Follows what this process does to directories below a root, through Python's ``os`` and not through SQLite.

    Attributes:
        unsynced: The directories of which an entry was changed since they were last synced.
        synced: The directories that were synced, in order.
        made_in_unsynced: Directories that were made in one whose own entry was not yet synced.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self.unsynced: set[Path] = set()
        self.synced: list[Path] = []
        self.made_in_unsynced: list[Path] = []
        self._unsynced_names: set[Path] = set()
        for name in ("mkdir", "rmdir", "unlink", "remove"):
            monkeypatch.setattr(os, name, self._following(getattr(os, name), name))
        for name in ("rename", "replace", "link"):
            monkeypatch.setattr(os, name, self._following_pair(getattr(os, name), name))
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _following(self, function: Callable[..., None], name: str) -> Callable[..., None]:
        def follow(path: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> None:
            place = _absolute(path, dir_fd)
            function(path, *args, dir_fd=dir_fd, **kwargs)
            if name == "mkdir" and place.parent in self._unsynced_names:
                self.made_in_unsynced.append(place)
            self._changed(place)
            if name == "rmdir":
                self.unsynced.discard(place)

        return follow

    def _following_pair(self, function: Callable[..., None], name: str) -> Callable[..., None]:
        def follow(source: Any, target: Any, **kwargs: Any) -> None:
            function(source, target, **kwargs)
            for path in (source, target) if name != "link" else (target,):
                self._changed(_absolute(path, None))

        return follow

    def _changed(self, place: Path) -> None:
        if place.is_relative_to(self._root):
            self.unsynced.add(place.parent)
            self._unsynced_names.add(place)

    def _sync(self, fd: int) -> None:
        self._fsync(fd)
        place = Path(f"/proc/self/fd/{fd}").readlink()
        self.synced.append(place)
        self.unsynced.discard(place)
        self._unsynced_names = {name for name in self._unsynced_names if name.parent != place}


def _absolute(path: Any, dir_fd: int | None) -> Path:
    if dir_fd is None:
        return Path(os.fspath(path)).absolute()
    return Path(f"/proc/self/fd/{dir_fd}").readlink() / os.fspath(path)
