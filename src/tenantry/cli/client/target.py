"""Where commands work: on a running service, or on a data directory in this process."""

import os
import pwd
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import print_note
from tenantry.config import RegistryConfig
from tenantry.errors import SnapshotError
from tenantry.storage.objects.cloud import open_storage
from tenantry.storage.objects.protocol import ObjectStorage
from tenantry.tenancy.data_directory import is_shared_by_group
from tenantry.tenancy.snapshots.location import recorded_location

URL: Final = "TENANTRY_URL"
DATA_DIR: Final = "TENANTRY_DATA_DIR"
SNAPSHOT_STORAGE: Final = "TENANTRY_SNAPSHOT_STORAGE"
API_KEY: Final = "TENANTRY_API_KEY"


@dataclass(frozen=True, slots=True)
class Target:
    """A service or a data directory: one of the two.

    Attributes:
        url: Of a running service.
        data_dir: Opened in this process.
        snapshot_storage: Where the snapshots of that directory are kept; in the directory itself if None.
    """

    url: str | None
    data_dir: Path | None
    snapshot_storage: str | None = None


def choose_target(url: str | None, data_dir: Path | None, snapshot_storage: str | None = None) -> Target:
    """Return where to work: what the command line says; if it says nothing, what the environment does.

    Raises:
        CommandError: Neither says it, or one of them says both.
    """
    if url is None and data_dir is None:
        url, path = _environment(URL), _environment(DATA_DIR)
        data_dir = None if path is None else Path(path)
    if (url is None) is (data_dir is None):
        says = "say where" if url is None else "say either"
        raise CommandError(
            Exit.USAGE,
            f"{says}: --url http://127.0.0.1:8321 (or {URL}) for a running service, --data-dir D (or {DATA_DIR}) for a "
            "directory without one",
        )
    return Target(url, data_dir, snapshot_storage)


def choose_data_dir(given: Path | None) -> Path:
    """Return the data directory, for what works on nothing else.

    Raises:
        CommandError: Neither the command line nor the environment says which.
    """
    text = given or _environment(DATA_DIR)
    if text is None:
        raise CommandError(Exit.USAGE, f"say which directory: --data-dir D (or {DATA_DIR})")
    return Path(text)


def choose_storage(url: str | None, data_dir: Path) -> ObjectStorage | None:
    """Return where snapshots are kept: where the command line, the environment or else the directory itself says.

    None is the directory's own place for them.

    Raises:
        CommandError: It cannot be used.
    """
    url = url or _environment(SNAPSHOT_STORAGE) or _recorded(data_dir)
    try:
        return open_storage(url) if url else None
    except SnapshotError as error:
        raise CommandError(Exit.USAGE, f"--snapshot-storage: {error}") from error


def note_other_owner(data_dir: Path) -> None:
    """Warn that the directory is another user's: what is made in it would be ours, and closed to its owner's service."""
    with suppress(OSError):  # whether it can be opened at all is said by who opens it
        found = data_dir.stat()
        owner = found.st_uid
        if owner != os.geteuid() and not is_shared_by_group(found):
            print_note(
                f"{data_dir} belongs to the user {_user(owner)}, and files that are made in it now do not: do this as that "
                f"user (sudo -u {_user(owner)} …), and see what 'tenantry doctor' says of permissions"
            )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"  # as sudo takes it


def _said(error: ErrorDetails) -> str:
    """Return what is wrong, and where it is one setting's fault which one; of several the sentence names them itself."""
    message = error["msg"].removeprefix("Value error, ")
    return ": ".join([*(f"TENANTRY_{str(part).upper()}" for part in error["loc"]), message])


def _recorded(data_dir: Path) -> str | None:
    try:
        recorded = recorded_location(data_dir)
    except SnapshotError:
        return None  # whoever opens the directory says what is wrong with it
    if recorded and "://" not in recorded and not recorded.startswith("/"):
        raise CommandError(
            Exit.USAGE,
            f"the snapshots of {data_dir} are kept at {recorded!r}, which is no URL and no directory: only the program that "
            "keeps them there can open them",
        )
    return recorded


def _environment(name: str) -> str | None:
    text = os.environ.get(name, "")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CommandError(Exit.USAGE, f"{name} is no text in UTF-8: give another") from error
    return text or None


def registry_config(data_dir: Path) -> RegistryConfig:
    """Return the settings of a registry on this directory; the rest comes from the environment.

    Raises:
        CommandError: The environment has a setting that is none.
    """
    try:
        return RegistryConfig(data_dir=data_dir)
    except ValidationError as error:
        found = "; ".join(map(_said, error.errors()))
        raise CommandError(
            Exit.USAGE, f"the environment has TENANTRY_ settings that cannot be used: {found}"
        ) from error
