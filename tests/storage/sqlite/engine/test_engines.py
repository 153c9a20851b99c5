"""The engine that the settings choose is the one that runs the statements, in a registry and without one."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from python_batches import counted_batches
from stores import open_backend
from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import CompanyRepositories
from tenantry.config import Engine
from tenantry.errors import SettingsError
from tenantry.storage import PersistenceConfig, SQLiteConfig, create_backend
from tenantry.storage.sqlite.engine import choice
from tenants import make_message

OpenCompany = Callable[[Path], AbstractAsyncContextManager[CompanyRepositories]]


@asynccontextmanager
async def open_tenant(directory: Path) -> AsyncIterator[CompanyRepositories]:
    """Open a tenant of a registry."""
    async with TenantRegistry(RegistryConfig(data_dir=directory)) as registry:
        await registry.create("acme")
        yield registry.tenant("acme")


def open_standalone(directory: Path) -> AbstractAsyncContextManager[CompanyRepositories]:
    """Open a database without a registry."""
    return open_backend(directory / "company.db")


@pytest.mark.parametrize("open_company", [open_tenant, open_standalone])
async def test_plain_calls_run_on_the_engine(open_company: OpenCompany, each_engine: Engine, tmp_path: Path):
    """After the first calls, which open connections, no save and no get comes to Python's functions if the engine is native."""
    async with open_company(tmp_path) as company:
        for name in ("first", "second", "third"):
            await company.messages.save(make_message(name))
            await company.messages.get_history("general")
        with counted_batches() as in_python:
            await company.messages.save(make_message("fourth"))
            assert len(await company.messages.get_history("general")) == 4
    assert in_python == ([] if each_engine == "native" else ["write", "read"])


def test_native_is_refused_without_a_registry_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A back end of a process that cannot use the engine in C is not made, and neither is its file."""
    monkeypatch.setattr(choice, "_why_not_native", lambda: "a test is against it")
    config = SQLiteConfig(path=str(tmp_path / "company.db"), engine="native")
    with pytest.raises(SettingsError, match="the engine in C cannot be used: a test is against it"):
        create_backend(PersistenceConfig(backend="sqlite", sqlite=config))
    assert list(tmp_path.iterdir()) == []
