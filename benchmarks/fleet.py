"""Many tenants on disk, quickly: one is created through the registry, the others are copies with a name of their own.

A copy differs from what the registry would have made in nothing that it checks: its directory, its entry in the
catalog, and the uid that both the entry and the database carry.
"""

import asyncio
import os
import sqlite3
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.peers import count_messages, fill_tasks
from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import Task
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenantry.tenancy.catalog.rows import SELECT


class Fleet:
    """Tenants ``t-000000``, ``t-000001`` and so on, and what was acknowledged of their messages."""

    def __init__(self, data_dir: Path, tenants: Sequence[str]) -> None:
        self.data_dir = data_dir
        self.tenants = tenants
        self._acknowledged: Counter[str] = Counter()

    def database(self, tenant: str) -> Path:
        """Return a tenant's file."""
        return tenant_paths(self.data_dir, tenant).database

    def add_acknowledged(self, saved: Counter[str], *, failed: int = 0) -> tuple[int, int]:
        """Add what a round saved; return how many rows those tenants have now, and how many they should have.

        Args:
            saved: Acknowledged messages by tenant.
            failed: If calls failed nobody knows what they stored, and what is there now counts from here on.
        """
        self._acknowledged.update(saved)
        stored = {tenant: count_messages(self.database(tenant)) for tenant in saved}
        acknowledged = sum(self._acknowledged[tenant] for tenant in saved)
        if failed:
            self._acknowledged.update({t: rows - self._acknowledged[t] for t, rows in stored.items()})
        return sum(stored.values()), acknowledged


def build_fleet(data_dir: Path, count: int, tasks: Sequence[Task]) -> Fleet:
    """Make so many tenants with these tasks, and wait until they are on the disk."""
    tenants = [tenant_name(number) for number in range(count)]
    template, *others = tenants
    create_tenant(data_dir, template)
    fill_tasks(tenant_paths(data_dir, template).database, tasks)
    _copy(data_dir, template, others)
    # Or the kernel would write it out while the first side is measured.
    os.sync()
    return Fleet(data_dir, tenants)


def tenant_name(number: int) -> str:
    """Return the id of a tenant of a fleet."""
    return f"t-{number:06}"


def fill_catalog(data_dir: Path, count: int) -> None:
    """Make a catalog of so many tenants, of which only the first has a database."""
    create_tenant(data_dir, tenant_name(0))
    add_entries(data_dir, tenant_name(0), [tenant_name(number) for number in range(1, count)])


def add_entries(data_dir: Path, template: str, tenants: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Add tenants to the catalog, each an entry like the template's; return its uid, and theirs by tenant."""
    with closing(sqlite3.connect(data_dir / "catalog.db")) as catalog:
        catalog.row_factory = sqlite3.Row
        entry = dict(catalog.execute(f"{SELECT} WHERE id = ?", (template,)).fetchone())
        uids = {tenant: _uid_like(entry["uid"]) for tenant in tenants}
        places = ", ".join(f":{name}" for name in entry)
        catalog.executemany(
            f"INSERT INTO tenants ({', '.join(entry)}) VALUES ({places})",
            (
                {**entry, "id": tenant, "location": tenant, "display_name": tenant, "uid": uid}
                for tenant, uid in uids.items()
            ),
        )
        catalog.commit()
    return entry["uid"], uids


def create_tenant(data_dir: Path, tenant: str) -> None:
    """Create a tenant through the registry, and leave it closed."""
    asyncio.run(_create(data_dir, tenant))


async def _create(data_dir: Path, tenant: str) -> None:
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create(tenant)


def _copy(data_dir: Path, template: str, others: Sequence[str]) -> None:
    paths = tenant_paths(data_dir, template)
    database, lock = paths.database.read_bytes(), paths.lock.read_bytes()
    old_uid, uids = add_entries(data_dir, template, others)
    for tenant, uid in uids.items():
        new = tenant_paths(data_dir, tenant)
        new.directory.mkdir(mode=0o700, parents=True)
        new.directory.parent.chmod(0o700)
        _write(new.database, database.replace(old_uid.encode(), uid.encode()))
        _write(new.lock, lock)


def _uid_like(uid: str) -> str:
    new = uuid.uuid4()
    return str(new) if len(uid) == len(str(new)) else new.hex


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
