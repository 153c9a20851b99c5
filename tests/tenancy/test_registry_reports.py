"""What a registry says about itself: statistics, hooks and log events."""

import asyncio
import json
from pathlib import Path

import pytest
import structlog.testing

from registries import config
from tenantry import TenantRegistry
from tenantry.config import Engine
from tenantry.errors import (
    TenantExistsError,
)
from tenantry.events import (
    BatchFinished,
    OperationEnded,
    StoreConnected,
    StoreMigrated,
    TenantClosed,
    TenantOpened,
)
from tenantry.storage.sqlite.engine.choice import choose
from tenants import (
    Recorder,
    database_path,
    held_writer,
    make_message,
    until,
)


class TestStatistics:
    """What the registry says about itself, and tells its hooks."""

    async def test_statistics(self, data_dir: Path):
        """Places, threads and mailboxes; a tenant's own counters while it is open."""
        async with TenantRegistry(config(data_dir, open_tenants_max=3, readers_per_tenant=2)) as registry:
            assert registry.config.open_tenants_max == 3
            for n in range(5):
                await registry.create(f"t{n}")
            statistics = registry.statistics()
            assert (statistics.pool.open_tenants, statistics.pool.open_tenants_peak) == (3, 3)
            assert (statistics.pool.open_tenants_max, statistics.pool.evictions, statistics.threads_max) == (
                3,
                2,
                6,
            )
            assert statistics.mailbox_requests == {"write": 0, "read": 0}
            t4 = registry.tenant("t4")
            assert repr(t4) == "<TenantHandle t4>"
            with held_writer(database_path(data_dir, "t4")):
                saves = [asyncio.ensure_future(t4.messages.save(make_message())) for _ in range(3)]
                await until(lambda: t4.statistics().write.running_requests == 1)
                saves += [asyncio.ensure_future(t4.messages.save(make_message())) for _ in range(2)]
                await asyncio.sleep(0)
                statistics = registry.statistics()
                assert (
                    statistics.mailbox_requests == statistics.mailbox_requests_peak == {"write": 4, "read": 0}
                )
            await asyncio.gather(*saves)
            assert t4.statistics().write.calls == 5
            assert t4.statistics().write.batches == 2

    async def test_idle_tenants_are_closed(self, data_dir: Path):
        """A tenant that nobody uses gives its threads and files back, and opens again when it is asked for."""
        hook = Recorder()
        timing = {"idle_timeout_seconds": 0.01, "catalog_poll_interval_seconds": 0.01}
        async with TenantRegistry(config(data_dir, **timing), hooks=[hook]) as registry:
            await registry.create("acme")
            await hook.wait_for(TenantClosed, tenant_id="acme", reason="idle")
            await registry.tenant("acme").messages.save(make_message())

    async def test_hooks_hear_of_everything(self, data_dir: Path):
        """A hook sees each call, opening and closing; one added later sees what comes then."""
        early, late = Recorder(), Recorder()
        async with TenantRegistry(config(data_dir), hooks=[early]) as registry:
            await registry.create("acme")
            registry.add_hook(late)
            await registry.tenant("acme").messages.save(make_message())
        assert early.of(TenantOpened)[0][:3] == ("acme", "sqlite", "ok")
        assert [event.outcome for event in early.of(StoreConnected, tenant_id="acme")] == ["ok"]
        assert [event.applied for event in early.of(StoreMigrated, tenant_id="acme")] == [1]
        assert [event.action for event in early.of(OperationEnded)] == ["create"]
        assert early.of(TenantClosed)[0][:3] == ("acme", "sqlite", "shutdown")
        [batch] = late.of(BatchFinished, tenant_id="acme")
        assert (batch.channel, [call[:2] for call in batch.calls]) == ("write", [("messages.save", "ok")])
        assert late.of(TenantOpened) == []

    async def test_a_hook_that_raises_disturbs_nobody(self, data_dir: Path):
        """It is logged; calls and other hooks go on."""
        after = Recorder()

        def broken(event: object) -> None:
            raise RuntimeError("hook")

        with structlog.testing.capture_logs() as logs:
            async with TenantRegistry(config(data_dir), hooks=[broken, after]) as registry:
                await registry.create("acme")
                await registry.tenant("acme").messages.save(make_message())
        assert after.of(BatchFinished, tenant_id="acme")
        failures = [log for log in logs if log["event"] == "tenantry.hook.failed"]
        assert {failure["log_level"] for failure in failures} == {"error"}
        assert "RuntimeError('hook')" in failures[0]["error"]

    async def test_log_events(self, data_dir: Path):
        """A host that uses structlog sees changes of state, bound to their tenant, and no payload anywhere."""
        with structlog.testing.capture_logs() as logs:
            async with TenantRegistry(config(data_dir)) as registry:
                await registry.create("acme")
                await registry.tenant("acme").messages.save(make_message("a secret"))
        events = {log["event"]: log for log in logs}
        assert events["tenantry.registry.opened"]["open_tenants_max"] == 4
        assert events["tenantry.registry.opened"]["threads_max"] == 6
        assert isinstance(events["tenantry.sqlite.version"]["has_wal_reset_bug"], bool)
        assert events["tenantry.lifecycle.called"]["tenant_id"] == "acme"
        assert events["persistence.message.saved"]["log_level"] == "debug"
        assert "tenantry.registry.closed" in events
        assert "a secret" not in json.dumps(logs, default=str)

    @pytest.mark.parametrize("wanted", ["auto", "python"])
    async def test_the_log_has_the_engine(self, data_dir: Path, wanted: Engine):
        """The log says which engine is used, and why not the one in C unless the settings say so."""
        with structlog.testing.capture_logs() as logs:
            async with TenantRegistry(config(data_dir, engine=wanted)):
                pass
        [opened] = [log for log in logs if log["event"] == "tenantry.registry.opened"]
        choice = choose(wanted)
        reason = choice.reason if wanted == "auto" else None
        assert (opened["engine"], opened.get("engine_reason")) == (choice.name, reason)

    async def test_a_host_without_structlog_hears_warnings_only(
        self, data_dir: Path, capsys: pytest.CaptureFixture[str]
    ):
        """Nothing of a library's business goes to a terminal that did not ask for it."""
        async with TenantRegistry(config(data_dir)) as registry:
            await registry.create("acme")
            await registry.tenant("acme").messages.save(make_message())
            assert capsys.readouterr() == ("", "")
            with pytest.raises(TenantExistsError):
                await registry.create("acme")
        written = capsys.readouterr()
        assert "tenantry.lifecycle.failed" in written.err
        assert written.out == ""
