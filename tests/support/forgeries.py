"""Bundles and snapshots as an attacker makes them: every digest is right, and the database is the attacker's.

Import it by name (``tests`` is on pytest's path): ``from forgeries import forged``.
"""

import gzip
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tenantry.files import digests
from tenantry.storage.archive.bundle import read_bundle, write_bundle
from tenantry.storage.archive.compression import compress
from tenantry.storage.archive.manifest import seal, unseal


def forged(bundle: Path, change: Callable[[sqlite3.Connection], object]) -> Path:
    """Return a bundle with a database that somebody changed, and with a manifest that fits it."""
    directory = bundle.parent / "forged"
    directory.mkdir()
    manifest, database = read_bundle(bundle, directory, bytes_max=10**9)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        change(connection)
    counts = {}
    with closing(sqlite3.connect(database)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            if not table.startswith("sqlite_"):
                counts[table] = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
    sizes = {
        "database_bytes": database.stat().st_size,
        "database_sha256": digests.file_sha256(database),
        "stored_bytes": database.stat().st_size,
        "stored_sha256": digests.file_sha256(database),
    }
    path = directory / "forged.tar.gz"
    write_bundle(path, database, manifest.model_copy(update={**sizes, "row_counts": counts}))
    return path


def forge_snapshot(manifest_path: Path, change: Callable[[Path], object]) -> None:
    """Change the database of a stored snapshot, and make its manifest fit, but for what the database contains.

    Args:
        manifest_path: The manifest; the database is beside it.
        change: Changes the file that it is given.
    """
    stored, database = manifest_path.with_suffix(".db.gz"), manifest_path.with_suffix(".forged")
    manifest = unseal(manifest_path.read_bytes())
    database.write_bytes(gzip.decompress(stored.read_bytes()))
    change(database)
    forged = compress(database, stored)
    fields = {
        "database_bytes": database.stat().st_size,
        "database_sha256": forged.content_sha256,
        "stored_bytes": forged.size_bytes,
        "stored_sha256": forged.sha256,
    }
    manifest_path.write_bytes(seal(manifest.model_copy(update=fields)))
    database.unlink()


def running(*statements: str) -> Callable[[sqlite3.Connection], object]:
    """Return what runs these statements."""
    return lambda connection: [connection.execute(statement) for statement in statements]
