"""The password of a database: a registry connects with it, and shows it nowhere."""

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import structlog

from postgres_processes import PostgresProcess
from postgres_servers import private_server, socket_url, url_of
from tenantry import PostgresConfig, RegistryConfig, SettingsError, TenantRegistry, TenantryError
from tenants import make_message

PASSWORD = "horse-battery"


@pytest.fixture
def server() -> Iterator[PostgresProcess]:
    """A server with a role that needs its password."""
    with private_server() as made:
        made.start()
        with psycopg.connect(url_of(made), autocommit=True) as admin:
            admin.execute("CREATE ROLE with_password")
            admin.execute(
                f"CREATE ROLE app LOGIN SUPERUSER PASSWORD '{PASSWORD}' IN ROLE with_password".encode()
            )
        yield made


async def test_the_password_is_shown_nowhere(
    server: PostgresProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Neither settings, reports and logs, nor the errors of calls and operations while the server is away."""
    caplog.set_level(logging.DEBUG)
    url = socket_url(server.socket_directory, user=f"app:{PASSWORD}")
    config = RegistryConfig(data_dir=tmp_path / "data", database=PostgresConfig(url=url))
    impatient = config.model_copy(update={"call_timeout_seconds": 1.0})
    shown = [repr(config), str(config), config.model_dump_json()]
    with structlog.testing.capture_logs() as logs:
        async with TenantRegistry(config) as registry:
            await registry.create("acme")
            await registry.tenant("acme").messages.save(make_message())
        async with TenantRegistry(impatient) as registry:
            shown.append(repr(await registry.backend_reports()))
            server.stop("immediate")
            for call in (
                registry.tenant("acme").messages.save(make_message()),
                registry.create("globex"),
                registry.snapshots.create("acme"),
                registry.backend_reports(),
            ):
                try:
                    shown.append(repr(await call))
                except TenantryError as error:
                    shown += traceback.format_exception(error)
            server.start()
    shown += map(repr, logs)
    everything = "".join([*shown, caplog.text])
    assert "app@" in everything
    assert PASSWORD not in everything


@pytest.mark.parametrize("variable", ["TENANTRY_DATABASE", "TENANTRY_DATABASES__east"])
@pytest.mark.parametrize(
    "url", ["postgresql://app:horse/battery@h/d", "postgresql://app:horse@h/d?tenantry_battery=1", "horse"]
)
def test_a_url_in_the_environment_that_cannot_be_read(
    variable: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The refusal names the variable, and repeats nothing of it."""
    monkeypatch.setenv(variable, url)
    with pytest.raises(SettingsError, match=variable) as refused:
        RegistryConfig.from_environment(data_dir=tmp_path)
    text = "".join(traceback.format_exception(refused.value))
    assert "horse" not in text
    assert "tenantry_battery" not in text
