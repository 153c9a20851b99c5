"""Endpoints that start, follow, pause, resume and cancel fleet jobs, which do the same work on many tenants."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final

import anyio
from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field, StrictBool

from tenantry.admin.http.cursors import CurrentCursor
from tenantry.admin.http.operations import POLL_SECONDS
from tenantry.admin.http.routing import Administrator, AdminRoute, CurrentService, Reader
from tenantry.admin.openapi.responses import documented
from tenantry.admin.schemas import LIST_ITEMS_MAX, Body, IdPrefix, ReasonRequest, TenantIdText, reason_of
from tenantry.errors import RegistryClosedError
from tenantry.lifecycle import TenantState
from tenantry.limits import Number
from tenantry.tenancy.fleet.job import LIVE_STATES, FleetJob, FleetProgress, FleetResult, JobState
from tenantry.tenancy.fleet.options import CONCURRENCY, JOB_FAILURES_MAX, Arguments
from tenantry.texts import SCHEMAS_MAX, SchemaName

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=AdminRoute)

JOB_TENANTS_MAX: Final = 10_000_000
"""The largest number of tenants in a request; no job has more tenants."""

SCHEMA_VERSION_MAX: Final = 10_000
"""The largest schema version; migrations' file names begin with four digits."""

JobPath = Annotated[str, Path(max_length=80, examples=["20261123-120000-000000-00ff00ff"])]
FailuresMax = (
    Annotated[int, Field(ge=0, le=JOB_TENANTS_MAX), Number]
    | Annotated[float, Field(gt=0, lt=1), Number]
    | None
)
SchemaVersions = Annotated[
    dict[SchemaName, Annotated[int, Field(ge=1, le=SCHEMA_VERSION_MAX), Number]],
    # pydantic describes the valid names in the OpenAPI document, but does not state that other names are refused.
    Field(min_length=1, max_length=SCHEMAS_MAX, json_schema_extra={"additionalProperties": False}),
]
# A percentage above 0 % and up to 100 %: the rule of fleet jobs, as a pattern for the OpenAPI document.
Share = Annotated[
    str,
    Field(pattern=r"^([1-9][0-9]?(\.[0-9]{1,2})?|0\.([1-9][0-9]?|0[1-9])|100(\.0{1,2})?)%$"),
]
FOLLOW_SECONDS = 0.5


class StartJobRequest(Body):
    """A job to start."""

    kind: Annotated[
        str,
        Field(
            min_length=1,
            max_length=40,
            examples=["migrate"],
            description="`migrate`, `check`, `snapshot`, `move` (with the argument `to`), or the name of a function that the runtime has registered.",
        ),
    ]
    states: Annotated[tuple[TenantState, ...], Field(min_length=1, max_length=len(TenantState))] = (
        TenantState.ACTIVE,
    )
    tenant_ids: Annotated[tuple[TenantIdText, ...] | None, Field(max_length=10_000)] = None
    id_prefix: IdPrefix | None = None
    below: SchemaVersions | None = Field(default=None, examples=[{"company": 2}])
    canary: Annotated[int, Field(ge=1, le=JOB_TENANTS_MAX), Number] | Share | None = Field(
        default=None, examples=["5%"], description="The first wave: a number of tenants, or a percentage."
    )
    concurrency: Annotated[int, Field(ge=1, le=1024), Number] = CONCURRENCY
    failures_max: FailuresMax = Field(
        default=JOB_FAILURES_MAX, description="The number or share of tenants that may fail."
    )
    canary_failures_max: FailuresMax = 0
    snapshot_before: StrictBool = False
    return_on_failure: StrictBool = False
    arguments: Arguments | None = Field(
        default=None,
        examples=[{"thorough": True}],
        description="Arguments of the work, without secrets. At most 65,536 characters and 32 levels.",
    )


class ResumeJobRequest(Body):
    """The options for resuming a job."""

    failures_max: FailuresMax = Field(
        default=None, examples=[20], description="The new limit of failures; by default unchanged."
    )


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    items: Sequence[FleetJob]
    next_cursor: str | None


class ResultPage(BaseModel):
    """A page of a job's results by tenant."""

    items: Sequence[FleetResult]
    next_cursor: str | None


@router.post("", status_code=202, responses=documented(404, 409))
async def start_job(
    body: StartJobRequest, principal: Administrator, service: CurrentService, response: Response
) -> FleetJob:
    """Start a fleet job over many tenants; the job's progress is at `Location`."""
    principal.check_fleet()
    job = await service.registry.fleet.start(**body.model_dump(), by=principal.name)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers["Retry-After"] = str(POLL_SECONDS)
    return job


@router.get("", responses=documented(400))
async def list_jobs(
    principal: Reader,
    service: CurrentService,
    cursor: CurrentCursor,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=LIST_ITEMS_MAX)] = 100,
) -> JobPage:
    """Return a page of jobs, newest first."""
    principal.check_fleet()
    page = await service.registry.fleet.list(state=state, limit=limit, cursor=cursor.after)
    return JobPage(items=page, next_cursor=cursor.next(page))


@router.get("/{job_id}", responses=documented(404))
async def get_job(job_id: JobPath, principal: Reader, service: CurrentService) -> FleetProgress:
    """Return a job's progress."""
    principal.check_fleet()
    return await service.registry.fleet.progress(job_id)


@router.get("/{job_id}/results", responses=documented(400, 404))
async def list_results(
    job_id: JobPath,
    principal: Reader,
    service: CurrentService,
    cursor: CurrentCursor,
    outcome: Annotated[
        str | None,
        Query(
            max_length=40,
            examples=["failed"],
            description="`ok`, `skipped`, the outcome of an error, `failed` for all errors, or `left` for unfinished tenants.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=LIST_ITEMS_MAX)] = 100,
) -> ResultPage:
    """Return a page of the results of a job's tenants, ordered by wave and tenant id."""
    principal.check_fleet()
    page = await service.registry.fleet.results(job_id, outcome=outcome, limit=limit, cursor=cursor.after)
    return ResultPage(items=page, next_cursor=cursor.next(page))


async def _job(job_id: JobPath, principal: Reader, service: CurrentService) -> FleetJob:
    principal.check_fleet()
    return await service.registry.fleet.get(job_id)


# A dependency looks the job up before the response begins, because a stream that has begun cannot become a 404.
FoundJob = Annotated[FleetJob, Depends(_job)]


@router.get("/{job_id}/events", response_class=EventSourceResponse, responses=documented(404))  # noqa: FAST003  # `_job` takes the path parameter
async def follow_job(job: FoundJob, service: CurrentService) -> AsyncIterator[ServerSentEvent]:
    """Stream a job's progress as server-sent events while the job is pending or running.

    The stream also ends when the service stops, and within a second after the key becomes invalid.
    """
    seen = None
    # When the service stops, the stream does not wait for the job, because the job continues at the next start.
    while not service.stopping.is_set():
        try:
            progress = await service.registry.fleet.progress(job.id)
        except RegistryClosedError:
            return
        now = (progress.state, progress.done, progress.failed)
        if now != seen:
            yield ServerSentEvent(data=progress.model_dump(mode="json"), event=progress.state.value)
        if progress.state not in LIVE_STATES:
            return
        seen = now
        with anyio.move_on_after(FOLLOW_SECONDS):
            await service.stopping.wait()


@router.post("/{job_id}/pause", responses=documented(404, 409))
async def pause_job(
    job_id: JobPath, principal: Administrator, service: CurrentService, body: ReasonRequest | None = None
) -> FleetJob:
    """Pause a job. The job begins no work on further tenants until the job is resumed."""
    principal.check_fleet()
    return await service.registry.fleet.pause(job_id, reason=reason_of(body), by=principal.name)


@router.post("/{job_id}/resume", responses=documented(404, 409))
async def resume_job(
    job_id: JobPath, principal: Administrator, service: CurrentService, body: ResumeJobRequest | None = None
) -> FleetJob:
    """Resume a paused or stopped job. A resumed job does not count failures before its stop against the limit."""
    principal.check_fleet()
    failures_max = body.failures_max if body is not None else None
    return await service.registry.fleet.resume(job_id, failures_max=failures_max, by=principal.name)


@router.post("/{job_id}/cancel", responses=documented(404, 409))
async def cancel_job(
    job_id: JobPath, principal: Administrator, service: CurrentService, body: ReasonRequest | None = None
) -> FleetJob:
    """Cancel a job. The job begins no work on further tenants."""
    principal.check_fleet()
    return await service.registry.fleet.cancel(job_id, reason=reason_of(body), by=principal.name)
