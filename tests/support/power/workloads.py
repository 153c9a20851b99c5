"""What is done to a data directory while every change of its files is recorded."""

import asyncio
import contextlib
import errno
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from power.checking import CHANNEL
from power.script import Script, StoppedError
from power.tracing import Kind
from power.worlds import World
from tenantry import Scope, TenantHandle, TenantRegistry
from tenantry.errors import TransactionClosedError
from tenantry.threads import run_in_thread
from tenants import make_message


@dataclass(frozen=True)
class Workload:
    """A workload.

    Attributes:
        run: Runs it with an open registry.
        data: Where the data directory is, seen from the root; its parent need not exist.
        settings: More of `RegistryConfig`.
    """

    run: Callable[[Script], Awaitable[None]]
    data: str = "data"
    settings: tuple[tuple[str, Any], ...] = ()


async def writes(script: Script) -> None:
    """Write to more tenants than may be open at once, several callers to each, and close the registry in between."""
    tenant_ids = ("acme", "globex", "umbrella")
    for tenant_id in tenant_ids:
        await create(script, tenant_id)
    for turn in range(3):
        if turn:
            await script.reopen()
        for tenant_id in tenant_ids:
            await asyncio.gather(
                *(script.save_beside(tenant_id, f"{turn} of caller {caller}") for caller in range(4)),
                script.save_beside(tenant_id, *(f"{turn} of many {number}" for number in range(3))),
            )
            # Larger than a page, so that it can be torn.
            await script.save_beside(tenant_id, f"{turn} large {'x' * 9000}")


async def forwarded(script: Script) -> None:
    """Write through a registry that forwards to the owner: answers are lost on the way, and the owner closes in between."""
    await create(script, "acme")
    await script.save("acme", "the owner's")
    copied = await copied_columns(script.registry.tenant("acme"))
    await script.open()
    for turn in range(3):
        for part in ("", "again "):
            await asyncio.gather(
                *(
                    forward(script, copied, f"forwarded {part}{turn} of caller {caller}")
                    for caller in range(4)
                ),
                *(
                    forward_inside(script, copied, f"inside {part}{turn} of caller {caller}")
                    for caller in range(2)
                ),
                save_at_owner(script, f"owner's {part}{turn}"),
                lose_connections(script),
            )
        if turn == 1:
            await script.open()
            await script.close_owner()
            await save_at_owner(script, "the next owner's")


async def copied_columns(tenant: TenantHandle) -> str:
    """Return the columns of a message that are copied by `forward`."""
    columns = await tenant.fetch_all("SELECT name FROM pragma_table_info('messages')")
    return ", ".join(f'"{name}"' for (name,) in columns if name not in {"seq", "id", "content"})


def copying(copied: str, text: str) -> tuple[str, tuple[str]]:
    """Return the statement that adds a message with this text, and returns the text, so that the unit's mark has it."""
    sql = f"INSERT INTO messages (id, content, {copied}) SELECT randomblob(16), ?, {copied} FROM messages WHERE content = 'the owner''s' RETURNING content"
    return sql, (text,)


async def forward(script: Script, copied: str, text: str) -> None:
    """Add a message."""
    added = script.registry.tenant("acme").fetch_value(*copying(copied, text))
    await script.do_beside("acme", (text,), added, TransactionClosedError)


async def forward_inside(script: Script, copied: str, text: str) -> None:
    """Add two messages in a transaction."""
    texts = (text, f"{text} more")

    async def add() -> None:
        async with script.registry.tenant("acme").transaction() as tx:
            for one in texts:
                await tx.fetch_value(*copying(copied, one))

    await script.do_beside("acme", texts, add(), TransactionClosedError)


async def save_at_owner(script: Script, text: str) -> None:
    """Add a message in the process that owns the tenant."""
    saved = script.owner.tenant("acme").messages.save(make_message(text))
    await script.do_beside("acme", (text,), saved, TransactionClosedError)


async def lose_connections(script: Script) -> None:
    """End the connections to the owner while calls run there."""
    await asyncio.sleep(0.002)  # a moment of no importance
    for connection in [*script.owner._parts.peers._accepted]:
        connection.end()


async def lifecycle(script: Script) -> None:
    """Take tenants through their life, with keys made and revoked on the way."""
    await create(script, "acme", display_name="Acme")
    await script.save("acme", "first")
    await create(script, "globex")
    await script.save("globex", "doomed")
    await update(script, "globex", display_name="Globex Corporation", deletion_protected=True)
    await change_state(script, "suspend", "globex", "suspended", reason="unpaid")
    await change_state(script, "resume", "globex", "active")
    await make_and_revoke_keys(script)
    await script.step(
        "rename",
        lambda registry: registry.rename("acme", "umbrella"),
        lambda world, _: world.rename("acme", "umbrella"),
    )
    await script.save("umbrella", "second")
    await script.reopen()
    await change_state(script, "archive", "umbrella", "archived")
    await change_state(script, "unarchive", "umbrella", "active")
    await update(script, "globex", deletion_protected=False)
    await change_state(script, "delete", "globex", "deleted")
    await change_state(script, "undelete", "globex", "active")
    await change_state(script, "delete", "globex", "deleted")
    await purge(script, "globex")
    await create(script, "globex")
    await script.save("globex", "anew")


async def copies(script: Script) -> None:
    """Take snapshots, restore them, undo that; clone, export and import."""
    await create(script, "acme")
    await script.save("acme", "in the snapshot")
    first = await snapshot(script, "acme")
    await script.save("acme", "after the snapshot")
    await restore(script, "acme", first)
    await script.save("acme", "after the restore")
    await script.step("undo_restore", lambda registry: registry.snapshots.undo_restore("acme"), undo)
    second = await snapshot(script, "acme")
    await clone(script, "acme", "clone")
    await clone(script, "acme", "clone-of-snapshot", first)
    bundle = script.config.data_dir.parent / "acme.tar.gz"
    await script.step(
        "export", lambda registry: export(script, registry, bundle), lambda world, _: exported(world)
    )
    await script.step(
        "import",
        lambda registry: registry.import_bundle("imported", bundle),
        lambda world, _: world.create("imported", *world.bundles.get("acme.tar.gz", ()), display_name="acme"),
    )
    await script.step(
        "delete_snapshot",
        lambda registry: registry.snapshots.delete("acme", first),
        lambda world, _: world.tenants["acme"].snapshots.pop(first, None),
    )
    await restore(script, "acme", second)
    await purge(script, "clone")


async def placed_files(script: Script) -> None:
    """Put files in the place of a tenant's database, with a log beside it and without; undo that, and drop what was kept."""
    await create(script, "acme")
    await script.save("acme", "in the file")
    plain = script.config.data_dir.parent / "acme.db"
    for _ in range(4):  # the copy is not tenantry's work: a fault that strikes it is passed over
        with contextlib.suppress(sqlite3.Error, OSError):
            await run_in_thread(partial(_copy_plain, script, plain))
            break
    else:
        raise StoppedError("copy the database")
    in_file = script.worlds[0].tenants["acme"].messages
    await script.save("acme", "after the file")
    await replace_file(script, plain, in_file)
    await script.save("acme", "after it was placed")
    await script.step("undo_restore", lambda registry: registry.snapshots.undo_restore("acme"), undo)
    await drop_points(script)
    await script.reopen()
    await script.save("acme", "after the undo")
    await replace_file(script, plain, in_file)
    await script.save("acme", "the last")
    await script.reopen()
    await drop_points(script)
    await replace_file(script, plain, in_file)
    await purge(script, "acme")
    await create(script, "acme")


async def openings(script: Script) -> None:
    """Open and evict tenants whose first write, since they were opened, comes in each way in which it can come."""
    tenant_ids = ("acme", "globex")
    for tenant_id in tenant_ids:
        await create(script, tenant_id)
        await script.save_beside(tenant_id, "before")
    for turn in range(4):
        for tenant_id in tenant_ids:  # each call evicts the other tenant
            await script.save_beside(tenant_id, f"{turn} opens for writing")
        for tenant_id in tenant_ids:
            await read_beside(script, tenant_id)
            await asyncio.gather(
                script.save_beside(tenant_id, f"{turn} after a read"),
                read_beside(script, tenant_id),
                script.save_beside(tenant_id, f"{turn} beside a read"),
            )
        for tenant_id in tenant_ids:
            await save_inside(script, tenant_id, f"{turn} in a transaction of Python")
            await script.save_beside(tenant_id, f"{turn} after a transaction of Python")
        await script.reopen()


async def read_beside(script: Script, tenant_id: str) -> None:
    """Read while other calls run; a failure is left at that."""
    await script.do_beside(tenant_id, (), script.registry.tenant(tenant_id).messages.get_history(CHANNEL))


async def save_inside(script: Script, tenant_id: str, text: str) -> None:
    """Save a message in a transaction."""

    async def save() -> None:
        async with script.registry.tenant(tenant_id).transaction() as tx:
            await tx.messages.save(make_message(text))

    await script.do_beside(tenant_id, (text,), save())


async def fresh(script: Script) -> None:
    """Use a data directory that did not exist, in a directory that did not exist either."""
    await create(script, "acme")
    await script.save("acme", "first")
    await script.reopen()
    await script.save("acme", "second")


async def failed_log_sync(script: Script) -> None:
    """Let the sync of a tenant's log fail and everything that its closing syncs; write again when the disk is well."""
    await create(script, "acme")
    await create(script, "globex")
    await script.save_beside("acme", "before")
    for turn, close in enumerate(
        (script.reopen, partial(script.save_beside, "globex", "evicts"), script.reopen)
    ):
        script.preloaded.fail(Kind.SYNC, errno.EIO, is_lasting=True, name="acme/tenant.db")
        await script.save_beside("acme", f"{turn} while the disk failed")
        await close()
        script.preloaded.fail_no_more()
        await script.save_beside("acme", f"{turn} when it was well again")
        await script.save_beside("acme", f"{turn} and once more")


async def short(script: Script) -> None:
    """Do a little of everything."""
    await create(script, "acme")
    await script.save("acme", "in the snapshot")
    await make_and_revoke_keys(script)
    taken = await snapshot(script, "acme")
    await script.save("acme", "after the snapshot")
    await restore(script, "acme", taken)
    await script.reopen()
    await change_state(script, "suspend", "acme", "suspended")
    await change_state(script, "resume", "acme", "active")
    await clone(script, "acme", "clone")
    await purge(script, "clone")
    await create(script, "clone")


WORKLOADS: Final = {
    "short": Workload(short),
    "writes": Workload(writes, settings=(("open_tenants_max", 2),)),
    "lifecycle": Workload(lifecycle),
    "copies": Workload(copies),
    "placed-files": Workload(placed_files),
    "forwarded": Workload(forwarded),
    "openings": Workload(openings, settings=(("open_tenants_max", 1),)),
    "fresh": Workload(fresh, data="srv/tenantry/data"),
    "failed-log-sync": Workload(failed_log_sync, settings=(("open_tenants_max", 1),)),
    # Loses what it acknowledged: the log is not synced at each commit.
    "not-synced": Workload(fresh, settings=(("durability", "normal"),)),
}


async def create(script: Script, tenant_id: str, display_name: str | None = None) -> None:
    """Create a tenant."""
    await script.step(
        f"create {tenant_id}",
        lambda registry: registry.create(tenant_id, display_name=display_name),
        lambda world, _: world.create(tenant_id, display_name=display_name or ""),
    )


async def change_state(script: Script, action: str, tenant_id: str, state: str, **keywords: Any) -> None:
    """Change a tenant's state."""
    await script.step(
        action,
        lambda registry: getattr(registry, action)(tenant_id, **keywords),
        lambda world, _: world.set(tenant_id, state=state),
    )


async def update(script: Script, tenant_id: str, **changes: Any) -> None:
    """Update a tenant's entry."""
    known = {"deletion_protected": "is_protected"}
    told = {known.get(name, name): value for name, value in changes.items()}
    await script.step(
        "update",
        lambda registry: registry.update(tenant_id, **changes),
        lambda world, _: world.set(tenant_id, **told),
    )


async def purge(script: Script, tenant_id: str) -> None:
    """Delete a tenant, if it is not deleted yet, and purge it."""
    if any(
        tenant_id in world.tenants and world.tenants[tenant_id].state == "active" for world in script.worlds
    ):
        await change_state(script, "delete", tenant_id, "deleted")
    await script.step(
        "purge",
        lambda registry: registry.purge(tenant_id, force=True),
        lambda world, _: world.purge(tenant_id),
    )


async def make_and_revoke_keys(script: Script) -> None:
    """Make two keys and revoke one."""

    def made(world: World, key: Any) -> None:
        if key is not None:
            world.keys[key.token] = True

    keys = [
        await script.step("key.create", lambda registry: registry.keys.create(scopes=[Scope.ADMIN]), made)
        for _ in range(2)
    ]
    await script.step(
        "key.revoke",
        lambda registry: registry.keys.revoke(keys[0].key.id),
        lambda world, _: world.keys.update({keys[0].token: False}),
    )


async def snapshot(script: Script, tenant_id: str) -> str:
    """Take a snapshot and return its id."""

    def taken(world: World, snapshot: Any) -> None:
        if snapshot is not None:
            company = world.tenants[tenant_id]
            company.snapshots[snapshot.id] = company.messages

    made = await script.step("snapshot", lambda registry: registry.snapshots.create(tenant_id), taken)
    return str(made.id)


async def restore(script: Script, tenant_id: str, snapshot_id: str) -> None:
    """Restore a snapshot."""
    await script.step(
        "restore",
        lambda registry: registry.snapshots.restore(tenant_id, snapshot_id),
        lambda world, _: world.restore(tenant_id, world.tenants[tenant_id].snapshots[snapshot_id]),
    )


async def replace_file(script: Script, path: Path, messages: list[str]) -> None:
    """Put a plain file in the place of acme's database."""
    await script.step(
        "replace_file",
        lambda registry: registry.snapshots.replace_file("acme", path),
        lambda world, _: world.restore("acme", messages),
    )


async def drop_points(script: Script) -> None:
    """Drop everything that restores of acme have replaced."""
    for point in await script.registry.snapshots.points("acme"):
        await script.step(
            "drop_point",
            partial(_drop_point, point),
            lambda world, _: setattr(world.tenants["acme"], "replaced", None),
        )


async def _drop_point(point: str, registry: TenantRegistry) -> None:
    await registry.snapshots.drop_point("acme", point)


def _copy_plain(script: Script, path: Path) -> None:
    """Copy acme's database, which may be open, into one plain file."""
    [database] = script.config.data_dir.glob("tenants/*/acme/tenant.db")
    path.unlink(missing_ok=True)
    uri = f"file:{database}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")


def undo(world: World, _: Any) -> None:
    """Bring back what the last restore replaced; a second time does nothing."""
    company = world.tenants["acme"]
    if company.replaced is not None:
        company.messages, company.replaced = company.replaced, None


async def clone(script: Script, tenant_id: str, new_id: str, snapshot_id: str | None = None) -> None:
    """Clone a tenant, or a snapshot of it."""

    def cloned(world: World, _: Any) -> None:
        company = world.tenants[tenant_id]
        world.create(new_id, *(company.snapshots[snapshot_id] if snapshot_id else company.messages))

    await script.step(
        "clone", lambda registry: registry.clone(tenant_id, new_id, snapshot_id=snapshot_id), cloned
    )


async def export(script: Script, registry: Any, bundle: Any) -> None:
    """Export a bundle, unless an attempt before this one did."""
    if not bundle.exists():
        await registry.export("acme", bundle)


def exported(world: World) -> None:
    """Have the bundle."""
    world.bundles["acme.tar.gz"] = world.tenants["acme"].messages
