"""Catalogs as older versions of tenantry have left them."""

from pathlib import Path

import pytest

from stores import make_store
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.tenancy.catalog.catalog import CATALOG
from tenants import query, write_pack

TABLES = ("tenants", "admin_audit", "api_keys")


async def make_older(data_dir: Path, migrations: int, packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the catalog of a closed data directory by one with the same rows that only the first migrations have made.

    Args:
        data_dir: The data directory.
        migrations: How many migrations, from 3.
        packs: A directory for the schema pack of these migrations.
        monkeypatch: Makes the pack importable.
    """
    known = CATALOG.migrations("sqlite")[:migrations]
    # A name for each count: a pack's migrations are read once in a process.
    package = write_pack(packs, f"older_catalog_{migrations}", *(migration.sql for migration in known))
    monkeypatch.syspath_prepend(packs)
    newer, older = data_dir / "newer.db", data_dir / "catalog.db"
    older.rename(newer)
    options = SQLiteOptions(path=older, root=data_dir, is_wal=False, is_read_by_writer=True)
    store = make_store(options, [Schema(name=CATALOG.name, package=package)])
    await store.connect()
    await store.migrate()
    await store.disconnect()
    for table in TABLES:
        names = [name for (name,) in query(older, "SELECT name FROM pragma_table_info(?)", table)]
        sources = ["location" if name == "directory" else name for name in names]
        places = ", ".join("?" * len(names))
        for row in query(newer, f"SELECT {', '.join(sources)} FROM {table} ORDER BY 1"):
            query(older, f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", *row)
    newer.unlink()
