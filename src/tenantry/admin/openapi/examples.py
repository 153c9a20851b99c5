"""Examples for the OpenAPI document: one of each model, made from the models themselves."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel

from tenantry.admin.http.operations import Operation, OperationState
from tenantry.admin.routes.jobs import JobPage, ResultPage, ResumeJobRequest, StartJobRequest
from tenantry.admin.routes.keys import Caller, CreatedKey, CreateKeyRequest, KeyList
from tenantry.admin.routes.probes import Readiness
from tenantry.admin.schemas import (
    AuditEntryOut,
    AuditPage,
    AuditVerificationOut,
    ChannelLoad,
    CloneRequest,
    CreateTenantRequest,
    DrillOut,
    DrillRequest,
    PurgeRequest,
    ReasonRequest,
    RenameRequest,
    RestorePoint,
    RestorePointList,
    SnapshotPage,
    StatisticsList,
    StorageClaimed,
    TenantLoad,
    TenantOut,
    TenantPage,
    TenantStatisticsOut,
    TopTenantsOut,
    UpdateTenantRequest,
    VersionOut,
    states_out,
)
from tenantry.ids import TenantId
from tenantry.lifecycle import TenantState, operator_choices
from tenantry.limits import TenantLimits
from tenantry.tenancy.catalog.api_keys import ApiKey, Scope
from tenantry.tenancy.fleet.job import FleetJob, FleetProgress, FleetResult, JobState
from tenantry.tenancy.fleet.options import FleetOptions
from tenantry.tenancy.snapshots.drill import DrillResult
from tenantry.tenancy.snapshots.snapshot import Snapshot

_NOON: Final = datetime(2026, 11, 23, 12, tzinfo=UTC)
_UID: Final = "0f8fad5bd9cb469fa16570867728950e"
_HASH: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SNAPSHOT_ID: Final = "20261123t120000000000z-00ff00ff"
_KEY_ID: Final = "0123456789abcdef"
_JOB_ID: Final = "20261123-120000-000000-00ff00ff"
_OPERATION_ID: Final = "9f86d081884c7d65"
# A cursor has a digest of its query: an example for another query would be refused.
_LAST_PAGE: Final = None

_LIMITS = TenantLimits(calls_per_second_max=100, calls_burst_max=200)
_TENANT = TenantOut(
    id="acme",
    uid=_UID,
    display_name="Acme Ltd.",
    state=TenantState.ACTIVE,
    allows=list(operator_choices(TenantState.ACTIVE)),
    reason=None,
    busy_with=None,
    created_at=_NOON,
    state_changed_at=_NOON,
    purge_after=None,
    schema_versions={"company": 1},
    last_error=None,
    deletion_protected=False,
    limits=_LIMITS,
    previous_id=None,
    snapshot_due_at=None,
    revision=3,
)
_SNAPSHOT = Snapshot(
    id=_SNAPSHOT_ID,
    tenant_id="acme",
    tenant_uid=_UID,
    created_at=_NOON,
    trigger="manual",
    schema_versions={"company": 1},
    row_counts={"messages": 2, "tasks": 0},
    database_bytes=86_016,
    stored_bytes=4_096,
    database_sha256=_HASH,
)
_LOAD = ChannelLoad(waiting_requests=0, running_requests=1, calls=1_200, batches=300, refused=0, timed_out=0)
_KEY = ApiKey(
    id=_KEY_ID,
    name="nightly backups",
    scopes=(Scope.OPERATE,),
    tenants=(TenantId("acme"),),
    created_at=_NOON,
    created_by="key:fedcba9876543210",
    expires_at=_NOON + timedelta(days=30),
)
_OPERATION = Operation(
    id=_OPERATION_ID,
    action="snapshot",
    tenant_id="acme",
    tenant_uid=_UID,
    started_by=f"key:{_KEY_ID}",
    state=OperationState.SUCCEEDED,
    started_at=_NOON,
    finished_at=_NOON + timedelta(seconds=2),
    result=_SNAPSHOT.model_dump(mode="json"),
)
_AUDIT_ENTRY = AuditEntryOut(
    seq=17,
    at=_NOON,
    principal=f"key:{_KEY_ID}",
    action="suspend",
    tenant_id="acme",
    tenant_uid=_UID,
    outcome="ok",
    detail={"reason": "unpaid since May"},
)

_JOB = FleetJob(
    id=_JOB_ID,
    kind="migrate",
    options=FleetOptions(canary="5%"),
    state=JobState.RUNNING,
    reason=None,
    created_by=f"key:{_KEY_ID}",
    created_at=_NOON,
    begun_at=_NOON,
    state_changed_at=_NOON,
    finished_before=0,
    failures_accepted=0,
)
_PROGRESS = FleetProgress(
    job_id=_JOB_ID,
    kind="migrate",
    state=JobState.RUNNING,
    reason=None,
    wave=2,
    waves=2,
    total=5_000,
    done=1_240,
    failed=2,
    skipped=12,
    left=3_758,
    rate_per_second=230.5,
    seconds_left=16.3,
)
_RESULT = FleetResult(
    tenant_uid=_UID,
    tenant_id="acme",
    wave=1,
    outcome="quarantined",
    error="tenant 'acme' was quarantined: migration invoices 0001_invoices failed: table invoices already exists",
    detail={},
    seconds=0.02,
    finished_at=_NOON,
)
_STATISTICS = TenantStatisticsOut(
    tenant_id="acme", is_open=True, database_bytes=86_016, write=_LOAD, read=_LOAD
)
_DRILLED = DrillResult(
    tenant_id=TenantId("acme"),
    snapshot_id=_SNAPSHOT_ID,
    outcome="ok",
    error=None,
    age_seconds=3_600.0,
    duration_seconds=0.4,
)

MODELS: Final[tuple[BaseModel, ...]] = (
    CreateTenantRequest(id="acme", display_name="Acme Ltd."),
    UpdateTenantRequest(display_name="Acme Ltd.", deletion_protected=True, limits=_LIMITS),
    ReasonRequest(reason="unpaid since May"),
    PurgeRequest(force=True),
    RenameRequest(new_id="acme-europe"),
    CloneRequest(new_id="acme-test", snapshot_id=_SNAPSHOT_ID, display_name="Acme, to try things out"),
    CreateKeyRequest(
        name="nightly backups", scopes=(Scope.OPERATE,), tenants=["acme"], expires_in_seconds=30 * 86_400
    ),
    _TENANT,
    TenantPage(items=[_TENANT], next_cursor=_LAST_PAGE),
    _OPERATION,
    _SNAPSHOT,
    SnapshotPage(items=[_SNAPSHOT]),
    RestorePointList(items=[RestorePoint(id=f"before-{_SNAPSHOT_ID}")]),
    _STATISTICS,
    StatisticsList(items=[_STATISTICS]),
    StorageClaimed(
        location="s3://backups/tenantry",
        taken_from="the data directory /srv/tenantry on db-1 (since 2026-11-23 12:00 UTC)",
    ),
    DrillRequest(sample=20),
    DrillOut(is_ok=True, results=[_DRILLED]),
    StartJobRequest(kind="migrate", canary="5%"),
    ResumeJobRequest(failures_max=20),
    _JOB,
    _PROGRESS,
    _RESULT,
    JobPage(items=[_JOB], next_cursor=_LAST_PAGE),
    ResultPage(items=[_RESULT], next_cursor=_LAST_PAGE),
    Caller(name=f"key:{_KEY_ID}", key=_KEY),
    TopTenantsOut(items=[TenantLoad(tenant_id="acme", calls_per_second=20.5)]),
    AuditPage(items=[_AUDIT_ENTRY], next_cursor=_LAST_PAGE),
    AuditVerificationOut(is_intact=True, rows=17, hash=_HASH, problem=None),
    _KEY,
    CreatedKey(**_KEY.model_dump(), token=f"tnt_{_KEY_ID}_{'0' * 64}"),
    KeyList(items=[_KEY], next_cursor=_LAST_PAGE),
    VersionOut(
        tenantry="0.1.0",
        backend="sqlite",
        backend_version="3.51.3",
        settings={"open_tenants_max": 64},
        states=states_out(),
    ),
    Readiness(is_ready=True, service="ok", catalog="ok", pool="ok", disk="ok"),
)
"""An example of each model; a new field with a default appears in it without a change here."""

BEGUN: Final[dict[str, Any]] = {"state": "running", "finished_at": None, "result": None}
"""How a new operation differs from one that has ended."""

TEXTS: Final[dict[tuple[str, str], str]] = {
    ("/healthz", "text/plain"): "ok\n",
    ("/metrics", "text/plain"): "# TYPE tenantry_pool_waiters gauge\ntenantry_pool_waiters 0.0\n",
    ("/metrics", "application/openmetrics-text"): (
        "# TYPE tenantry_pool_waiters gauge\ntenantry_pool_waiters 0.0\n# EOF\n"
    ),
    ("/v1/operations/{operation_id}/events", "text/event-stream"): (
        f"event: succeeded\ndata: {_OPERATION.model_dump_json()}\n\n"
    ),
    ("/v1/jobs/{job_id}/events", "text/event-stream"): (
        f"event: running\ndata: {_PROGRESS.model_dump_json()}\n\n"
    ),
    ("/v1/tenants/{tenant_id}/export", "application/gzip"): "the bytes of acme.tar.gz",
    ("/v1/tenants/{tenant_id}/import", "application/gzip"): "the bytes of acme.tar.gz",
    ("/v1/tenants/{tenant_id}/replace-file", "application/vnd.sqlite3"): "the bytes of acme.db",
}
"""Examples of bodies that are not JSON, by path and media type."""

PARAMETERS: Final[dict[str, Any]] = {
    "tenant_id": "acme",
    "tenant_uid": _UID,
    "snapshot_id": _SNAPSHOT_ID,
    "point": f"before-{_SNAPSHOT_ID}",
    "operation_id": _OPERATION_ID,
    "key_id": _KEY_ID,
    "job_id": _JOB_ID,
    "id_prefix": "acme",
    "outcome": "failed",
    "state": "active",
    "/v1/jobs state": "running",
    "/v1/statistics tenant_id": ["acme"],
    "limit": 100,
    "display_name": "Acme Ltd.",
    "owner": "9f86d081884c4d659a2feaa0c55ad015",
    "accept_tables": "notes,tags",
    "Idempotency-Key": "create-acme-2026-11-23",
    "If-Match": '"3"',
}
