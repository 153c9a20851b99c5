"""Chooses the target of a command: a running service, or a data directory that this process opens."""

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
        snapshot_storage: The storage of the directory's snapshots; None if the directory itself stores its snapshots.
        schemas: The names of the directory's schema packs; empty for the built-in pack.
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
    """Return the command line's target; if the command line names no target, return the environment's target.

    Raises:
        CommandError: The target is missing or ambiguous, or schema packs are given for a service.
        SettingsError: The environment has a variable that tenantry does not know, for example a misspelt name.
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
            "data directory of this machine",
        )
    if url is not None and schemas:
        raise CommandError(
            Exit.USAGE,
            "--schema is only for a directory that this process opens: omit it here, and give a service's schema packs to "
            "'tenantry serve'",
        )
    return Target(url, data_dir, snapshot_storage, name_schemas(schemas))


def name_schemas(given: Sequence[str] | None) -> Sequence[str]:
    """Return the names of the schema packs from the command line or the environment; empty for the built-in pack."""
    if given:
        return given
    return [name for part in (_environment(SCHEMAS) or "").split(",") if (name := part.strip())]


def choose_data_dir(given: Path | None) -> Path:
    """Return the data directory, for a command that cannot use a service.

    Raises:
        CommandError: Neither the command line nor the environment names a directory.
    """
    text = given or _environment(DATA_DIR)
    if text is None:
        raise CommandError(Exit.USAGE, f"name the data directory: --data-dir D (or {DATA_DIR})")
    return Path(text)


def choose_storage(url: str | None, data_dir: Path) -> "ObjectStorage | None":
    """Return the storage of snapshots that the command line, the environment or the directory names.

    The result is None if the directory itself stores its snapshots.

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
                f"{data_dir} belongs to the user {_user(owner)}, who cannot use files that this command creates: run the command "
                f"as that user (sudo -u {_user(owner)} …), and check permissions with 'tenantry doctor'"
            )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"  # the form that sudo accepts


def _recorded(data_dir: Path) -> str | None:
    from tenantry.tenancy.snapshot_storage.location import recorded_location

    try:
        recorded = recorded_location(data_dir)
    except SnapshotError:
        return None  # opening the directory reports the error
    if recorded and "://" not in recorded and not recorded.startswith("/"):
        raise CommandError(
            Exit.USAGE,
            f"the snapshots of {data_dir} are stored at {recorded!r}, which is neither a URL nor a directory: use the program "
            "that has stored them",
        )
    return recorded


def _environment(name: str) -> str | None:
    text = os.environ.get(name, "")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CommandError(Exit.USAGE, f"{name} is not valid UTF-8: set it to UTF-8 text") from error
    return text or None
