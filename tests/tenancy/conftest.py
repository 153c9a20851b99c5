"""What tests of fleets have: a schema that no tenant has yet, and tenants without files."""

# tests look at files in between; nobody waits for them

from pathlib import Path
from typing import Any

import pytest

from fleets import INVOICES_SQL, add_entries, fleet_config
from registries import INVOICES
from tenantry import Schema, TenantRegistry
from tenants import (
    write_pack,
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A schema pack that no tenant has yet, importable here and, with `environment`, in other processes."""
    monkeypatch.syspath_prepend(tmp_path / "packs")
    return write_pack(tmp_path / "packs", f"pack_{abs(hash(tmp_path)):x}", INVOICES_SQL)


@pytest.fixture
def invoices(package: str) -> Schema:
    """The pack."""
    return Schema("invoices", package)


@pytest.fixture
async def entries(data_dir: Path) -> list[str]:
    """Twenty tenants that are entries in the catalog and nothing else: for functions that do not touch them."""
    async with TenantRegistry(fleet_config(data_dir)) as registry:
        await registry.create("zz-template")
        ids = add_entries(data_dir, 20)
        await registry.suspend("zz-template")
    return ids


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Return what makes a schema pack of these migrations, with invoices' repository, importable under a name of its own."""
    count = iter(range(100))

    def make(*migrations: str, name: str = "invoices") -> Schema:
        folder = tmp_path / "packs"
        monkeypatch.syspath_prepend(folder)
        package = write_pack(
            folder, f"pack_{abs(hash(request.node.nodeid)):x}_{next(count)}", *migrations, code=INVOICES
        )
        return Schema(name, package)

    return make
