"""Random lifecycle operations and writes on a real registry, against a model of what a tenant is: no difference, ever.

The model knows the states, the messages and the refusals, and nothing of files, catalogs or pools. A few ids, so that they
are created, renamed and purged over each other. ``LIVES`` in the environment is how many lives are lived; 10
without it.
"""

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deployments import config_of, deployments, stored_messages, url_of
from postgres_servers import PostgresServer
from tenantry import TenantRecord, TenantRegistry, TenantState
from tenantry.errors import (
    DeletionProtectedError,
    GracePeriodError,
    SnapshotNotFoundError,
    TenantDeletedError,
    TenantExistsError,
    TenantNotFoundError,
    TenantQuarantinedError,
    TenantryError,
    TenantStateError,
    TenantSuspendedError,
)
from tenants import make_message, query, temporary_directory

pytestmark = pytest.mark.unmeasured

LIVES = int(os.environ.get("LIVES", "10"))
CALLS_PER_LIFE = 40
COUNTS = "SELECT state, count FROM tenant_states WHERE count > 0"

S = TenantState
Error: TypeAlias = type[TenantryError]

# Where each call leads from where; who is there already stays there.
CHANGES: dict[str, dict[TenantState, TenantState]] = {
    "suspend": {S.ACTIVE: S.SUSPENDED},
    "resume": {S.SUSPENDED: S.ACTIVE},
    "archive": {S.ACTIVE: S.ARCHIVED, S.SUSPENDED: S.ARCHIVED},
    "unarchive": {S.ARCHIVED: S.ACTIVE},
    "quarantine": {S.ACTIVE: S.QUARANTINED},
    "repair": {S.QUARANTINED: S.ACTIVE},
    "delete": dict.fromkeys((S.ACTIVE, S.SUSPENDED, S.ARCHIVED, S.QUARANTINED), S.DELETED),
    "purge": {S.DELETED: S.PURGED},
}
REFUSALS: dict[TenantState, Error] = {
    S.ACTIVE: TenantStateError,
    S.SUSPENDED: TenantSuspendedError,
    S.ARCHIVED: TenantStateError,
    S.QUARANTINED: TenantQuarantinedError,
    S.DELETED: TenantDeletedError,
}


@dataclass
class Life:
    """What there is to know of one tenant."""

    id: str
    name: str
    uid: str = ""
    state: TenantState = S.ACTIVE
    state_before: TenantState | None = None
    previous_id: str | None = None
    is_protected: bool = False
    messages: list[str] = field(default_factory=list)
    snapshots: list[tuple[str, list[str]]] = field(default_factory=list)
    replaced: list[str] | None = None  # by the last restore
    is_undone: bool = False

    def replace_messages(self, messages: list[str]) -> None:
        """Have other messages, as after a restore; what was quarantined serves again."""
        self.messages = list(messages)
        if self.state is S.QUARANTINED:
            self.state = S.ACTIVE

    def leads(self) -> list[str]:
        """Return the calls that lead to another state."""
        leads = [action for action, leads in CHANGES.items() if self.state in leads]
        return [*leads, "undelete"] if self.state is S.DELETED else leads

    def refusal(self, action: str) -> Error | None:
        """Return with which error the call is refused, None if it is not."""
        if self.state is S.PURGED:
            return None if action == "purge" else TenantNotFoundError
        if action == "undelete":
            return None
        if action == "delete" and self.is_protected:
            return DeletionProtectedError
        leads = CHANGES[action]
        return None if self.state in {*leads, *leads.values()} else REFUSALS[self.state]

    def change(self, action: str) -> None:
        """Let a call that is not refused happen."""
        if action == "undelete":
            self.state, self.state_before = (self.state_before or self.state), None
            return
        target = CHANGES[action].get(self.state, self.state)
        if target is not self.state:
            self.state_before = self.state if target is S.DELETED else None
            self.state = target

    def use_refusal(self) -> Error | None:
        """Return with which error writing and reading are refused, None if they are not."""
        if self.state is S.ACTIVE:
            return None
        return TenantNotFoundError if self.state is S.PURGED else REFUSALS[self.state]


class LivesMachine(RuleBasedStateMachine):
    """One data directory and its registry, and what should be there."""

    ids = st.sampled_from(["a", "b", "c"])
    actions = st.sampled_from([*CHANGES, "undelete"])

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = ExitStack()
        self.data_dir = self.stack.enter_context(temporary_directory()) / "data"
        self.lives: dict[str, Life] = {}
        self.calls: Counter[str] = Counter()
        self.numbers = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something on the machine's own event loop."""
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        """Open a registry, with a tenant in it."""
        self.open()
        self.create("a")

    def open(self) -> None:
        """Open a registry whose pool is smaller than the number of tenants, so that they also evict each other."""
        self.registry = TenantRegistry(config_of(self.data_dir, open_tenants_max=2))
        self.run(self.registry.open())

    @rule()
    def reopen(self) -> None:
        """Close the registry, and go on with another."""
        self.run(self.registry.aclose())
        self.open()

    @rule(tenant_id=ids)
    def create(self, tenant_id: str) -> None:
        life = self.lives.get(tenant_id)
        is_taken = life is not None and life.state is not S.PURGED
        created = self.call("create", TenantExistsError if is_taken else None, tenant_id)
        if created is not None:
            self.lives[tenant_id] = Life(tenant_id, tenant_id, created.uid)

    @precondition(lambda self: any(life.leads() for life in self.lives.values()))
    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """Lead a tenant from its state to another."""
        life = data.draw(
            st.sampled_from([self.lives[i] for i in sorted(self.lives) if self.lives[i].leads()])
        )
        self.make(life.id, data.draw(st.sampled_from(life.leads())))

    @rule(tenant_id=ids, action=actions)
    def make(self, tenant_id: str, action: str) -> None:
        """Make any call, possible or not."""
        life = self.lives.get(tenant_id)
        keywords: dict[str, Any] = {"purge": {"force": True}, "quarantine": {"reason": "odd"}}.get(action, {})
        refusal = TenantNotFoundError if life is None else life.refusal(action)
        if self.call(action, refusal, tenant_id, **keywords) is not None:
            assert life is not None
            life.change(action)

    @rule(tenant_id=ids)
    def purge_too_early(self, tenant_id: str) -> None:
        life = self.lives.get(tenant_id)
        refusal: Error | None = TenantNotFoundError if life is None else life.refusal("purge")
        if life is not None and life.state is S.DELETED:
            refusal = GracePeriodError
        self.call("purge", refusal, tenant_id)

    @rule(tenant_id=ids, new_id=ids)
    def rename(self, tenant_id: str, new_id: str) -> None:
        life, taken = self.lives.get(tenant_id), self.lives.get(new_id)
        is_taken = taken is not None and taken.state is not S.PURGED
        if life is None or life.state is S.PURGED:
            was_renamed = is_taken and taken is not None and taken.previous_id == tenant_id
            self.call("rename", None if was_renamed else TenantNotFoundError, tenant_id, new_id)
        elif life is taken:
            self.call("rename", None, tenant_id, new_id)
        elif self.call("rename", TenantExistsError if is_taken else None, tenant_id, new_id) is not None:
            self.lives[new_id] = self.lives.pop(tenant_id)
            life.id, life.previous_id = new_id, tenant_id

    @rule(tenant_id=ids, is_protected=st.none() | st.booleans(), name=st.none() | st.sampled_from(["x", "y"]))
    def update(self, tenant_id: str, *, is_protected: bool | None, name: str | None) -> None:
        life = self.lives.get(tenant_id)
        is_gone = life is None or life.state is S.PURGED
        refusal = TenantNotFoundError if is_gone else None
        changed = self.call("update", refusal, tenant_id, deletion_protected=is_protected, display_name=name)
        if changed is not None:
            assert life is not None
            life.is_protected = life.is_protected if is_protected is None else is_protected
            life.name = name or life.name

    @rule(tenant_id=ids)
    def save(self, tenant_id: str) -> None:
        life, content = self.lives.get(tenant_id), self.new_content()
        refusal = TenantNotFoundError if life is None else life.use_refusal()
        message = make_message(content)
        self.check(refusal, lambda: self.registry.tenant(tenant_id).messages.save(message))
        if refusal is None:
            assert life is not None
            life.messages.append(content)

    @rule(tenant_id=ids)
    def read(self, tenant_id: str) -> None:
        life = self.lives.get(tenant_id)
        refusal = TenantNotFoundError if life is None else life.use_refusal()
        found = self.check(refusal, lambda: self.registry.tenant(tenant_id).messages.get_history("general"))
        if life is not None and found is not None:
            assert sorted(message.content for message in found) == sorted(life.messages)

    @rule(tenant_id=ids)
    def snapshot(self, tenant_id: str) -> None:
        life = self.lives.get(tenant_id)
        is_gone = life is None or life.state is S.PURGED
        taken = self.call("snapshot", TenantNotFoundError if is_gone else None, tenant_id)
        if taken is not None:
            assert life is not None
            life.snapshots.append((taken.id, list(life.messages)))

    @precondition(lambda self: any(life.snapshots for life in self.lives.values()))
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        life = data.draw(st.sampled_from([life for life in self.lives.values() if life.snapshots]))
        snapshot_id, messages = data.draw(st.sampled_from(life.snapshots))
        refusal = {S.PURGED: TenantNotFoundError, S.DELETED: TenantStateError}.get(life.state)
        if self.call("restore", refusal, life.id, snapshot_id) is not None:
            life.replaced, life.is_undone = life.messages, False
            life.replace_messages(messages)

    @rule(tenant_id=ids)
    def undo_restore(self, tenant_id: str) -> None:
        life = self.lives.get(tenant_id)
        refusal: Error | None = None
        if life is None or life.state is S.PURGED:
            refusal = TenantNotFoundError
        elif life.replaced is None:
            refusal = SnapshotNotFoundError
        elif life.state is S.DELETED and not life.is_undone:
            refusal = TenantStateError
        undone = self.call("undo_restore", refusal, tenant_id)
        if undone is not None and life is not None and life.replaced is not None and not life.is_undone:
            life.is_undone = True
            life.replace_messages(life.replaced)

    @rule(tenant_id=ids, new_id=ids)
    def clone(self, tenant_id: str, new_id: str) -> None:
        life, taken = self.lives.get(tenant_id), self.lives.get(new_id)
        refusal: Error | None = None
        if taken is not None and taken.state is not S.PURGED:
            refusal = TenantExistsError
        elif life is None or life.state is S.PURGED:
            refusal = TenantNotFoundError
        cloned = self.call("clone", refusal, tenant_id, new_id)
        if cloned is not None:
            assert life is not None
            self.lives[new_id] = Life(new_id, new_id, cloned.uid, messages=list(life.messages))

    @precondition(lambda self: any(life.state is S.ACTIVE for life in self.lives.values()))
    @rule(data=st.data(), action=st.sampled_from(["suspend", "archive", "delete", "quarantine", "rename"]))
    def save_while(self, data: st.DataObject, action: str) -> None:
        """Of writes that run beside a call exactly those that were acknowledged are there afterwards."""
        active = sorted(tenant_id for tenant_id, life in self.lives.items() if life.state is S.ACTIVE)
        tenant_id = data.draw(st.sampled_from(active))
        life, new_id = self.lives[tenant_id], f"{tenant_id}2"
        contents = [self.new_content() for _ in range(5)]

        async def write(content: str) -> bool:
            try:
                await self.registry.tenant(tenant_id).messages.save(make_message(content))
            except TenantryError as error:
                assert isinstance(error, TenantStateError | TenantNotFoundError), error  # noqa: PT017  # it may succeed
                return False
            return True

        async def at_once() -> list[bool]:
            writes = [asyncio.ensure_future(write(content)) for content in contents]
            await asyncio.sleep(0)
            keywords = {"reason": "odd"} if action == "quarantine" else {}
            await getattr(self.registry, action)(
                tenant_id, *([new_id] if action == "rename" else []), **keywords
            )
            return await asyncio.gather(*writes)

        is_refused = action == "delete" and life.is_protected
        if is_refused:
            return
        is_acknowledged = self.run(at_once())
        life.messages += [c for c, was in zip(contents, is_acknowledged, strict=True) if was]
        self.calls[action] += 1
        if action != "rename":
            life.change(action)
            return
        self.run(self.registry.rename(new_id, tenant_id))
        self.calls[action] += 1
        life.previous_id = new_id

    @invariant()
    def catalog_is_as_told(self) -> None:
        """What is listed, and what is found by its id, is what the model says; so are the counts of the states."""
        if not hasattr(self, "registry"):
            return
        listed = self.run(self.registry.list())
        purged = self.run(self.registry.list(state=S.PURGED))
        assert [tenant.id for tenant in listed] == [
            tenant_id for tenant_id, life in sorted(self.lives.items()) if life.state is not S.PURGED
        ]
        assert {tenant.id for tenant in (*listed, *purged)} == set(self.lives)
        for tenant in (*listed, *purged):
            self.check_entry(tenant)
        for tenant_id in ("a", "b", "c"):
            life = self.lives.get(tenant_id)
            is_there = life is not None and life.state is not S.PURGED
            found = self.check(
                None if is_there else TenantNotFoundError, lambda i=tenant_id: self.registry.get(i)
            )
            if found is not None:
                self.check_entry(found)
        assert self.stored_counts() == Counter(life.state.value for life in self.lives.values())

    def stored_counts(self) -> dict[str, int]:
        """Return the catalog's own number of tenants in each state."""
        return dict(query(self.data_dir / "catalog.db", COUNTS))

    def check_entry(self, tenant: TenantRecord) -> None:
        """The entry of the catalog is what the model says."""
        life = self.lives[tenant.id]
        assert (tenant.id, tenant.uid, tenant.display_name) == (life.id, life.uid, life.name)
        assert (tenant.state, tenant.state_before) == (life.state, life.state_before)
        assert (tenant.previous_id, tenant.deletion_protected) == (life.previous_id, life.is_protected)
        assert tenant.intent is None
        assert (tenant.purge_after is not None) == (life.state is S.DELETED)

    def call(self, action: str, refusal: Error | None, *arguments: Any, **keywords: Any) -> Any:
        """Make a lifecycle operation; return what it returned, None if it was refused as it should be."""
        self.calls[action] += 1
        snapshots = self.registry.snapshots
        own = {
            "snapshot": snapshots.create,
            "restore": snapshots.restore,
            "undo_restore": snapshots.undo_restore,
        }
        make = own.get(action) or getattr(self.registry, action)
        return self.check(refusal, lambda: make(*arguments, **keywords))

    def check(self, refusal: Error | None, make: Callable[[], Awaitable[Any]]) -> Any:
        """Run a call that succeeds, or is refused with exactly this error."""

        async def run() -> Any:
            try:
                return await make()
            except TenantryError as error:
                assert type(error) is refusal, f"{error!r}, not {refusal}"  # noqa: PT017  # a call may also succeed
                return None

        result = self.run(run())
        assert refusal is None or result is None, f"not refused with {refusal}"
        return result

    def new_content(self) -> str:
        """Return what no message has said yet."""
        self.numbers += 1
        return f"message {self.numbers}"

    def teardown(self) -> None:
        """Read everything once more, with tenantry and without, and verify the audit."""
        if hasattr(self, "registry"):
            for tenant_id in sorted(self.lives):
                self.read(tenant_id)
            verification = self.run(self.registry.audit.verify())
            assert verification.is_intact, verification
            assert verification.rows == self.calls.total()
            entries = self.run(self.registry.audit.list(limit=10_000))
            assert Counter(entry.action for entry in entries) == self.calls
            self.run(self.registry.aclose())
            self.check_databases()
        self.runner.close()
        self.stack.close()

    def check_databases(self) -> None:
        """There is a database for each tenant that was not purged, and in it what was acknowledged."""
        there = {life.uid: life.messages for life in self.lives.values() if life.state is not S.PURGED}
        assert {uid: sorted(contents) for uid, contents in self.stored_messages().items()} == {
            uid: sorted(contents) for uid, contents in there.items()
        }
        assert list((self.data_dir / "operations").iterdir()) == []

    def stored_messages(self) -> dict[str, list[str]]:
        """Return the messages of each tenant by its stable key, read without tenantry."""
        found = {}
        for path in self.data_dir.glob("tenants/*/*/tenant.db"):
            with closing(sqlite3.connect(path)) as connection:
                [(uid,)] = connection.execute("SELECT tenant_uid FROM tenantry_owner")
                found[uid] = [
                    row[0] for row in connection.execute("SELECT content FROM messages ORDER BY seq")
                ]
        return found


class LivesOnPostgresMachine(LivesMachine):
    """The same with the catalog and the tenants in a PostgreSQL database."""

    server: PostgresServer

    def __init__(self) -> None:
        super().__init__()
        self.stack.enter_context(deployments(self.server)).make(self.data_dir)

    def stored_counts(self) -> dict[str, int]:
        """Return the catalog's own number of tenants in each state."""
        with psycopg.connect(url_of(self.data_dir) or "") as connection:
            connection.execute("SET search_path TO tenantry")
            return dict(connection.execute(COUNTS).fetchall())

    def stored_messages(self) -> dict[str, list[str]]:
        """Return the messages of each tenant by its stable key, read without tenantry."""
        messages = stored_messages(self.data_dir)
        with psycopg.connect(url_of(self.data_dir) or "") as connection:
            owners = {
                schema: connection.execute(f'SELECT tenant_uid FROM "{schema}".tenantry_owner'.encode())
                for schema in messages
            }
            return {owner.fetchall()[0][0]: messages[schema] for schema, owner in owners.items()}


TestLivesMachine = LivesMachine.TestCase
TestLivesMachine.settings = settings(
    max_examples=LIVES,
    stateful_step_count=CALLS_PER_LIFE,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class TestLivesOnPostgres(LivesOnPostgresMachine.TestCase):
    """A few lives on a server."""

    settings = settings(TestLivesMachine.settings, max_examples=max(1, LIVES // 3))

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        """The server of the databases."""
        LivesOnPostgresMachine.server = postgres_server


@pytest.mark.soak
class TestMoreLives(TestLivesMachine):
    """The same with more lives."""

    settings = settings(TestLivesMachine.settings, max_examples=10 * LIVES)
