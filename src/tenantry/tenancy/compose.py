"""Creates the parts of a registry. Each part is fully initialised by its constructor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tenantry.clock import Clock
from tenantry.config import RegistryConfig
from tenantry.eventlog import EventLog
from tenantry.events import Hook
from tenantry.files.lock_file import DirectoryLock
from tenantry.schemas.schema import Schema, check_schemas
from tenantry.storage.backends import Backends, fit_pool, make_backends
from tenantry.storage.objects.protocol import LocalStorage, ObjectStorage
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.actors.limiter import Limiters
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.api_keys import ApiKeys
from tenantry.tenancy.catalog.audit import AdminAudit
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.catalog.recorded_responses import RecordedResponses
from tenantry.tenancy.catalog.recorded_schemas import RecordedSchemas
from tenantry.tenancy.clock_watch import ClockWatch
from tenantry.tenancy.fleet.fleet import Fleet
from tenantry.tenancy.fleet.work import FleetTools
from tenantry.tenancy.handle import HANDLE_ATTRIBUTES
from tenantry.tenancy.hooks import Hooks
from tenantry.tenancy.move.move import Move
from tenantry.tenancy.opening.failed_tenants import FailedTenants, FailureReports
from tenantry.tenancy.opening.tenant_leases import TenantLeases
from tenantry.tenancy.opening.tenant_opener import TenantOpener
from tenantry.tenancy.operations.archive import Archive
from tenantry.tenancy.operations.change import Change
from tenantry.tenancy.operations.create import Create
from tenantry.tenancy.operations.purge import ExpiredTenants, Purge
from tenantry.tenancy.operations.rename import Rename
from tenantry.tenancy.operations.repair import Repair
from tenantry.tenancy.operations.runner import Finisher, OperationRunner, finishers_of
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.peers.connections.peer_socket import PeerSocket
from tenantry.tenancy.peers.forwarding.forwarding import Forwarding
from tenantry.tenancy.peers.owners import Owners
from tenantry.tenancy.peers.peers import Peers
from tenantry.tenancy.peers.process_slots import ProcessSlots
from tenantry.tenancy.peers.sent_units import SentUnits
from tenantry.tenancy.peers.serving.served_operations import ServedOperations
from tenantry.tenancy.peers.serving.served_tenants import ServedTenants
from tenantry.tenancy.periodic_tasks import PeriodicTasks
from tenantry.tenancy.registry_state import RegistryState
from tenantry.tenancy.snapshot_storage.location import default_location, record_location
from tenantry.tenancy.snapshot_storage.owner import StorageOwner
from tenantry.tenancy.snapshots.copying import Copies
from tenantry.tenancy.snapshots.replace_file import ReplaceFile
from tenantry.tenancy.snapshots.restore import Restore
from tenantry.tenancy.snapshots.schedule import SnapshotSchedule
from tenantry.tenancy.snapshots.scratch import Scratch
from tenantry.tenancy.snapshots.snapshot_archive import SnapshotArchive
from tenantry.tenancy.snapshots.snapshots import SnapshotOperations, Snapshots
from tenantry.tenancy.snapshots.take_snapshot import TakeSnapshot
from tenantry.tenancy.snapshots.tools import SnapshotTools
from tenantry.tenancy.snapshots.undo_restore import UndoRestore
from tenantry.tenancy.tenant_operations import TenantOperations
from tenantry.tenancy.transfers.adopt import Adopt
from tenantry.tenancy.transfers.clone import Clone
from tenantry.tenancy.transfers.export import Export
from tenantry.tenancy.transfers.import_bundle import ImportBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a registry, in the order in which they are created.

    Attributes:
        directory_lock: The shared lock of the data directory, which each open registry holds.
        record_location: Records the snapshot storage's address in the data directory; raises if snapshots are stored elsewhere.
    """

    config: RegistryConfig
    schemas: Sequence[Schema]
    log: EventLog
    state: RegistryState
    hooks: Hooks
    watch: ClockWatch
    backends: Backends
    catalog: Catalog
    tools: OperationTools
    failed_tenants: FailedTenants
    leases: TenantLeases
    peers: Peers
    forwarding: Forwarding
    served: ServedTenants
    scratch: Scratch
    directory_lock: DirectoryLock
    record_location: Callable[[], None]
    storage_owner: StorageOwner
    operations: TenantOperations
    runner: OperationRunner
    snapshots: Snapshots
    fleet: Fleet
    recorded_schemas: RecordedSchemas
    snapshot_schedule: SnapshotSchedule
    periodic_tasks: PeriodicTasks
    audit: AdminAudit
    keys: ApiKeys
    recorded_responses: RecordedResponses

    @property
    def pool(self) -> ActorPool:
        """The open tenants."""
        return self.tools.pool


def compose(
    config: RegistryConfig,
    *,
    schemas: Sequence[Schema],
    hooks: Sequence[Hook],
    clock: Clock,
    snapshot_storage: ObjectStorage | None,
) -> Parts:
    """Create the parts of a registry, without opening or starting them.

    Raises:
        MigrationError: The packs cannot be used together.
    """
    check_schemas(schemas, taken=HANDLE_ATTRIBUTES)
    config = fit_pool(config)
    schemas = tuple(schemas)
    log = EventLog()
    state = RegistryState()
    all_hooks = Hooks(hooks, log)
    watch = ClockWatch(clock, config.clock_hold_seconds, all_hooks.report, log)
    slots = ProcessSlots(config.data_dir, log=log)
    socket = PeerSocket(config.data_dir, is_wanted=config.forwarding, log=log)
    backends = make_backends(config, schemas, clock=clock, log=log, socket_name=socket.name)
    server_limiters = {
        name: Limiters.of_server(config, counts.connections_max)
        for name, counts in backends.connections().items()
    }
    context = ActorContext(config, Limiters.of(config), clock, all_hooks.report, watch, server_limiters)
    # The catalog has its own limiters, so that tenants' calls do not delay the catalog's calls.
    catalog = Catalog(
        backends.catalog, ActorContext(config, Limiters.of(config), clock, all_hooks.report, watch)
    )
    recorded_schemas = RecordedSchemas(catalog, schemas, clock)
    failures = FailureReports()
    opener = TenantOpener(
        catalog, schemas, context, backends, recorded_schemas, log=log, on_failure=failures.report
    )
    pool = _pool(opener, context, log)
    served = ServedTenants(
        pool,
        call_timeout_seconds=config.call_timeout_seconds,
        handed_over_after_calls=config.handed_over_after_calls,
    )
    sent_units = SentUnits()
    peers = _peers(socket, slots, served, pool, catalog, context, schemas, sent_units, log)
    tools = OperationTools(
        catalog,
        context,
        pool,
        opener,
        backends,
        recorded_schemas,
        Owners(
            peers,
            backends,
            config.data_dir,
            silent_seconds_max=config.call_timeout_seconds,
        ),
    )
    failed_tenants = FailedTenants(tools, log)
    failures.subscribe(failed_tenants.start_closing)
    forwarding = Forwarding(
        pool,
        peers,
        sent_units,
        catalog,
        backends,
        is_wanted=config.forwarding,
        call_timeout_seconds=config.call_timeout_seconds,
        now=clock.monotonic_seconds,
        report=all_hooks.report,
        log=log,
    )
    leases = TenantLeases(tools, forwarding, state, schemas, log)
    storage = snapshot_storage or LocalStorage(default_location(config.data_dir))
    storage_owner = StorageOwner(storage, config, backends.catalog, clock)
    snapshot_tools = SnapshotTools(
        tools,
        SnapshotArchive(storage, storage_owner, schemas),
        Copies(tools, schemas),
        Scratch(config.data_dir),
        schemas,
    )
    snapshot_operations = _snapshot_operations(snapshot_tools)
    operations = _operations(tools, snapshot_tools, snapshot_operations.take_snapshot, storage_owner)
    runner = OperationRunner(
        catalog,
        context,
        backends.catalog,
        finishers=_finishers(operations, snapshot_operations),
        check_open=state.check_open,
        log=log,
    )
    snapshots = Snapshots(runner, snapshot_tools, snapshot_operations, storage_owner)
    fleet_tools = FleetTools(
        tools,
        catalog,
        tools.pool,
        runner,
        context,
        leases,
        schemas,
        recorded_schemas,
        backends,
        snapshots,
        operations.move,
    )
    fleet = Fleet(fleet_tools, check_open=state.check_open, log=log)
    expired = ExpiredTenants(tools, runner, operations.purge)
    return Parts(
        config=config,
        schemas=schemas,
        log=log,
        state=state,
        hooks=all_hooks,
        watch=watch,
        backends=backends,
        catalog=catalog,
        tools=tools,
        failed_tenants=failed_tenants,
        leases=leases,
        peers=peers,
        forwarding=forwarding,
        served=served,
        scratch=snapshot_tools.scratch,
        directory_lock=DirectoryLock(config.data_dir),
        record_location=partial(record_location, config.data_dir, storage.location),
        storage_owner=storage_owner,
        operations=operations,
        runner=runner,
        snapshots=snapshots,
        fleet=fleet,
        snapshot_schedule=SnapshotSchedule(snapshots, catalog, context, log),
        recorded_schemas=recorded_schemas,
        periodic_tasks=PeriodicTasks(tools, runner, expired, fleet, failed_tenants, log=log),
        audit=AdminAudit(catalog),
        keys=ApiKeys(catalog, clock),
        recorded_responses=RecordedResponses(catalog, clock, watch),
    )


def _pool(opener: TenantOpener, context: ActorContext, log: EventLog) -> ActorPool:
    config = context.config
    return ActorPool(
        opener.open,
        open_tenants_max=config.open_tenants_max,
        waiters_max=config.pool_waiters_max,
        wait_timeout_seconds=config.pool_wait_timeout_seconds,
        close_timeout_seconds=config.shutdown_timeout_seconds,
        clock=context.clock,
        report=context.report,
        log=log,
    )


def _peers(
    socket: PeerSocket,
    slots: ProcessSlots,
    served: ServedTenants,
    pool: ActorPool,
    catalog: Catalog,
    context: ActorContext,
    schemas: Sequence[Schema],
    sent_units: SentUnits,
    log: EventLog,
) -> Peers:
    """Return the connections to other processes."""
    config = context.config
    return Peers(
        socket,
        slots,
        served,
        ServedOperations(served, pool, catalog, config.data_dir / "scratch"),
        schemas,
        sent_units=sent_units,
        # A caller whose connection fails must see why, before the caller's own deadline passes.
        connect_timeout_seconds=config.call_timeout_seconds / 2,
        now=context.clock.monotonic_seconds,
        log=log,
    )


def _operations(
    tools: OperationTools,
    snapshot_tools: SnapshotTools,
    take_snapshot: TakeSnapshot,
    storage_owner: StorageOwner,
) -> TenantOperations:
    create = Create(tools)
    return TenantOperations(
        create=create,
        change=Change(tools),
        archive=Archive(tools),
        purge=Purge(tools, snapshot_tools.archive, storage_owner),
        rename=Rename(tools),
        repair=Repair(tools),
        move=Move(snapshot_tools, take_snapshot),
        clone=Clone(snapshot_tools, create),
        export=Export(snapshot_tools),
        import_bundle=ImportBundle(snapshot_tools, create),
        adopt=Adopt(snapshot_tools, create),
    )


def _snapshot_operations(tools: SnapshotTools) -> SnapshotOperations:
    return SnapshotOperations(
        take_snapshot=TakeSnapshot(tools),
        restore=Restore(tools),
        undo_restore=UndoRestore(tools),
        replace_file=ReplaceFile(tools),
    )


def _finishers(operations: TenantOperations, on_snapshots: SnapshotOperations) -> Mapping[str, Finisher]:
    """Return, for each operation of several steps, the function that finishes the operation after a crash."""
    return finishers_of(
        operations.create,
        operations.archive,
        operations.purge,
        operations.rename,
        operations.repair,
        operations.move,
        operations.clone,
        operations.import_bundle,
        operations.adopt,
        on_snapshots.restore,
        on_snapshots.undo_restore,
        on_snapshots.replace_file,
    )
