"""The restore points of one tenant, which are files beside the tenant's database."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tenantry.errors import SnapshotError
from tenantry.files.durable_files import remove_tree
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.database_files.layout import TenantPaths
from tenantry.storage.sqlite.tenant_files import replacement
from tenantry.threads import run_in_thread


class SQLiteRestorePoints:
    """See `RestorePoints`.

    Args:
        data_dir: The data directory, which contains the tenant's directory.
        schemas: The packs whose connect hooks define the functions that a check of the copy calls.
    """

    def __init__(self, paths: TenantPaths, data_dir: Path, schemas: Sequence[Schema]) -> None:
        self._paths = paths
        self._data_dir = data_dir
        self._schemas = schemas

    async def names(self) -> Sequence[str]:
        """Return the names of the restore points, the oldest first."""
        return await run_in_thread(replacement.list_points, self._paths)

    async def exists(self, point: str) -> bool:
        """Return whether the file of the restore point exists."""
        return await run_in_thread(replacement.kept_database(self._paths, point).exists)

    async def copy_to(self, point: str, path: Path) -> None:
        """Copy the restore point's file with its log, and check the copy; see `RestorePoints.copy_to`."""
        kept = replacement.kept_database(self._paths, point)
        await run_in_thread(replacement.copy_kept, kept, path, self._schemas)

    async def remove(self, point: str) -> None:
        """Remove the restore point's directory; see `RestorePoints.remove`."""
        directory = replacement.kept_database(self._paths, point).parent
        try:
            await run_in_thread(remove_tree, directory)
        except OSError as error:
            raise SnapshotError(f"cannot remove {directory}: {error}") from error

    async def remove_old(self, newest: str, *, latest: str, kept_max: int) -> None:
        """Remove the oldest restore points; see `RestorePoints.remove_old`."""
        forget = partial(replacement.forget_points, self._paths, newest, latest=latest, kept_max=kept_max)
        await run_in_thread(forget)

    async def stage(self, point: str, path: Path) -> None:
        """Move a prepared file into the tenant's directory; see `RestorePoints.stage`."""
        await run_in_thread(replacement.place, path, self._paths, point, self._data_dir)

    async def unstage(self, point: str) -> bool:
        """Remove the staged file; see `RestorePoints.unstage`."""
        return await run_in_thread(replacement.give_up, self._paths, point)

    async def has_begun(self, point: str) -> bool:
        """Return whether the staged file or the restore point's directory exists."""
        return await run_in_thread(replacement.has_begun, self._paths, point)
