"""Chooses what a command works on: a running service, or a data directory in this process."""

import os
import pwd
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import print_note
from tenantry.environment import SCHEMAS, SNAPSHOT_STORAGE, URL, read_settings, variable
from tenantry.errors import SnapshotError

if TYPE_CHECKING:
    from tenantry.storage.objects.protocol import ObjectStorage

DATA_DIR: Final = variable("data_dir")


@dataclass(frozen=True, slots=True)
class Target:
    """Either a service or a data directory.

    Attributes:
        url: The URL of a running service.
        data_dir: The data directory, to be opened in this process.
        snapshot_storage: Where the directory's snapshots are kept; in the directory itself if None.
        schemas: The names of the directory's schema packs; the built-in one if empty.
    """

    url: str | None
    data_dir: Path | None
    snapshot_storage: str | None = None
    schemas: Sequence[str] = ()


def choose_target(
    url: str | None,
    data_dir: Path | None,
    snapshot_storage: str | None = None,
    schemas: Sequence[str] | None = None,
) -> Target:
    """Return the target that the command line names, or else the environment.

    Raises:
        CommandError: Neither names a target, or one of them names two; or schema packs are given for a service.
        SettingsError: A variable of the environment has an unknown name, such as a misspelt one of these.
    """
    from tenantry.config import RegistryConfig

    read_settings(RegistryConfig.model_fields)
    if url is None and data_dir is None:
        url, path = _environment(URL), _environment(DATA_DIR)
        data_dir = None if path is None else Path(path)
    if (url is None) is (data_dir is None):
        says = "name a target" if url is None else "name one target"
        raise CommandError(
            Exit.USAGE,
            f"{says}: --url http://127.0.0.1:8321 (or {URL}) for a running service, --data-dir D (or {DATA_DIR}) for a "
            "directory without one",
        )
    if url is not None and schemas:
        raise CommandError(
            Exit.USAGE,
            "--schema is for a directory that this process opens, and a running service has packs of its own: give them to "
            "'tenantry serve', and omit --schema here",
        )
    return Target(url, data_dir, snapshot_storage, name_schemas(schemas))


def name_schemas(given: Sequence[str] | None) -> Sequence[str]:
    """Return the names of the schema packs that the command line gives, or else the environment; none for the built-in pack."""
    if given:
        return given
    return [name for part in (_environment(SCHEMAS) or "").split(",") if (name := part.strip())]


def choose_data_dir(given: Path | None) -> Path:
    """Return the data directory, for a command that cannot use a service.

    Raises:
        CommandError: Neither the command line nor the environment names it.
    """
    text = given or _environment(DATA_DIR)
    if text is None:
        raise CommandError(Exit.USAGE, f"name the directory: --data-dir D (or {DATA_DIR})")
    return Path(text)


def choose_storage(url: str | None, data_dir: Path) -> "ObjectStorage | None":
    """Return the storage of snapshots that the command line, the environment or the directory names.

    None stands for the directory's own storage.

    Raises:
        CommandError: The storage cannot be used.
    """
    from tenantry.storage.objects.cloud import open_storage

    url = url or _environment(SNAPSHOT_STORAGE) or _recorded(data_dir)
    try:
        return open_storage(url) if url else None
    except SnapshotError as error:
        raise CommandError(Exit.USAGE, f"--snapshot-storage: {error}") from error


def note_other_owner(data_dir: Path) -> None:
    """Warn if another user owns the directory: that user's service could not read the files that this process creates."""
    from tenantry.tenancy.data_directory import is_shared_by_group

    with suppress(OSError):  # opening the directory reports such errors
        found = data_dir.stat()
        owner = found.st_uid
        if owner != os.geteuid() and not is_shared_by_group(found):
            print_note(
                f"{data_dir} belongs to the user {_user(owner)}, and files that this command creates will not: run it as that "
                f"user (sudo -u {_user(owner)} …), and check permissions with 'tenantry doctor'"
            )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"  # as sudo takes it


def _recorded(data_dir: Path) -> str | None:
    from tenantry.tenancy.snapshot_storage.location import recorded_location

    try:
        recorded = recorded_location(data_dir)
    except SnapshotError:
        return None  # opening the directory reports what is wrong
    if recorded and "://" not in recorded and not recorded.startswith("/"):
        raise CommandError(
            Exit.USAGE,
            f"the snapshots of {data_dir} are stored at {recorded!r}, which is neither a URL nor a directory: only the program "
            "that keeps them there can open them",
        )
    return recorded


def _environment(name: str) -> str | None:
    text = os.environ.get(name, "")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CommandError(Exit.USAGE, f"{name} is not valid UTF-8: set it to UTF-8 text") from error
    return text or None
