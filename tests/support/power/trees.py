"""Images as files: written into a directory, read from one, and compared."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

Tree = Mapping[str, bytes | None]
"""The files of an image by their paths, seen from the root, with their contents; None for a directory."""


def digest(tree: Tree) -> str:
    """Return a hash of an image."""
    found = hashlib.blake2b()
    for path, content in sorted(tree.items()):
        found.update(f"{path}\0{'-' if content is None else len(content)}\0".encode())
        found.update(content or b"")
    return found.hexdigest()


def write_tree(tree: Tree, directory: Path) -> None:
    """Write an image into a new directory, everything private."""
    directory.mkdir(mode=0o700)
    for path, content in sorted(tree.items()):
        target = directory / path
        if content is None:
            target.mkdir(mode=0o700)
        else:
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)


def read_tree(directory: Path) -> Tree:
    """Return what is in a directory, as an image."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
    }
