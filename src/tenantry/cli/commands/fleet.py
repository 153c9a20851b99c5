"""``tenantry fleet``: jobs that do the same work on many tenants."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final

import typer

from tenantry.cli.arguments import (
    PrefixOption,
    ReasonOption,
    identifier,
    json_value,
    tenant_id,
)
from tenantry.cli.client.api import Api, Document, Paging, api_path, poll_seconds
from tenantry.cli.client.target import Target
from tenantry.cli.command import command
from tenantry.cli.output import counting, listing
from tenantry.lifecycle import TenantState

group = typer.Typer(name="fleet", no_args_is_help=True, help="Jobs that do the same work on many tenants.")

_LIVE: Final = {"pending", "running"}
_VERSION_DIGITS_MAX: Final = 9
_NONE: Final = "none"
_OMITTED: Final[tuple[object, ...]] = (None, [], {})

JobArgument = Annotated[str, typer.Argument(parser=identifier, metavar="JOB", help="The job's id.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until the job ends, as `fleet wait` does.")]


def _version(text: str) -> tuple[str, int]:
    schema, _, version = text.partition("=")
    if not schema or not version.isdecimal() or len(version) > _VERSION_DIGITS_MAX:
        raise typer.BadParameter(f"{text!r} is not SCHEMA=VERSION, such as company=2")
    return schema, int(version)


def _share(text: str) -> str | float:
    """Return a number or share, such as ``10``, ``0.02`` or ``5%``, in the API's form; nan for any other text."""
    try:
        return text if text.endswith("%") else int(text) if text.isdecimal() else float(text)
    except ValueError:
        return math.nan


def _parser(name: str, otherwise: str, *others: str) -> Callable[[str], str | float]:
    """Return the parser of a job's option. `others` are further valid texts; `otherwise` names the valid texts in errors."""

    def parse(text: str) -> str | float:
        from pydantic import ValidationError

        from tenantry.tenancy.fleet.options import FleetOptions

        value = text if text in others else _share(text)
        try:
            if value not in others:
                FleetOptions.model_validate({name: value})
        except ValidationError as error:
            raise typer.BadParameter(f"{text!r} is neither {otherwise}") from error
        return value

    return parse


_canary: Final = _parser("canary", "a number of tenants, from 1, nor a share of them, up to 100%")
_FAILURES: Final = "a number of tenants nor a share between 0 and 1"
_failures: Final = _parser("failures_max", _FAILURES)
# `_NONE` allows any number of failures; an omitted option keeps the default limit.
_failures_or_none: Final = _parser("failures_max", _FAILURES, _NONE)


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json_value(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise typer.BadParameter('not a JSON object, such as {"thorough": true}')
    return arguments


def who_runs(target: Target, job: Document) -> str:
    """Return a note for a job in a data directory, because this command ends without running the job."""
    if target.data_dir is None or "id" not in job:  # after --wait the result has a job_id instead of an id
        return ""
    return (
        "this command does not run the job: a service or an application that has this directory open runs it, or else "
        f"'tenantry fleet wait {job['id']}'"
    )


def has_failed(job: Document) -> bool:
    """Return whether a job was stopped, paused or cancelled, or a tenant failed."""
    return job["state"] not in {*_LIVE, "done"} or bool(job.get("failed"))


@dataclass(frozen=True, slots=True)
class StartOptions:
    """The options of ``fleet start``: the tenants, their order, and the work on each tenant."""

    states: Annotated[
        list[TenantState] | None,
        typer.Option("--state", help="Only tenants in this state; may be repeated. Default: active."),
    ] = None
    tenant_ids: Annotated[
        list[str] | None,
        typer.Option(
            "--tenant", parser=tenant_id, metavar="TENANT", help="Only this tenant; may be repeated."
        ),
    ] = None
    id_prefix: PrefixOption = None
    below: Annotated[
        list[Any] | None,
        typer.Option(
            parser=_version, metavar="SCHEMA=VERSION", help="Only tenants below this schema version."
        ),
    ] = None
    canary: Annotated[
        Any,
        typer.Option(
            parser=_canary,
            metavar="N|N%",
            help="The number or share of the first tenants. The other tenants follow if these succeed.",
        ),
    ] = None
    concurrency: Annotated[int | None, typer.Option(min=1, max=1024, help="Concurrent tenants.")] = None
    failures_max: Annotated[
        Any,
        typer.Option(
            parser=_failures_or_none,
            metavar="N|0.N|none",
            help="Allowed failures, as a number or a share of the tenants. More failures stop the job.",
        ),
    ] = None
    canary_failures_max: Annotated[
        Any,
        typer.Option(
            parser=_failures_or_none, metavar="N|0.N|none", help="Allowed failures of the first tenants."
        ),
    ] = None
    snapshot_before: Annotated[
        bool | None, typer.Option("--snapshot-before", help="Take a snapshot of each tenant first.")
    ] = None
    return_on_failure: Annotated[
        bool | None,
        typer.Option("--return-on-failure", help="Restore the snapshot if the work on the tenant fails."),
    ] = None
    arguments: Annotated[
        Any, typer.Option(parser=_arguments, metavar="JSON", help="Arguments of the work, without secrets.")
    ] = None

    def body(self) -> Document:
        """Return the given options in the API's form."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given["below"] = dict(self.below or ())
        unlimited = {name: None for name in ("failures_max", "canary_failures_max") if given[name] == _NONE}
        return {name: value for name, value in given.items() if value not in _OMITTED} | unlimited


@command(group, is_wrong=has_failed, note=who_runs)
async def start(
    api: Api,
    kind: Annotated[
        str, typer.Argument(help="migrate, check, snapshot, move, or a kind that the service registers.")
    ],
    *,
    options: StartOptions,
    is_waited_for: WaitOption = False,
) -> Document:
    """Start a job. A service runs the job even after this command ends or a process crashes; without a service, use --wait."""
    job = await api.post("/v1/jobs", {"kind": kind, **options.body()})
    return await wait_for(api, job["id"]) if is_waited_for else job


@command(group, show=listing("id", "kind", "state", "created_at", "created_by", "reason"))
async def list_(
    api: Api,
    *,
    paging: Paging,
) -> Document:
    """List jobs, newest first."""
    return await api.pages("/v1/jobs", paging)


@command(group)
async def progress(api: Api, job_id: JobArgument) -> Document:
    """Show a job's progress."""
    return await _progress(api, job_id)


@command(group, show=listing("tenant_id", "wave", "outcome", "seconds", "finished_at", "error", "detail"))
async def results(
    api: Api,
    job_id: JobArgument,
    *,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="Only results with this outcome: ok, skipped, failed, left, or an error's outcome."
        ),
    ] = None,
    paging: Paging,
) -> Document:
    """List the results of a job's tenants."""
    return await api.pages(_path(job_id, "results"), paging, outcome=outcome)


@command(group)
async def pause(api: Api, job_id: JobArgument, *, reason: ReasonOption = None) -> Document:
    """Pause a job, so that no work on further tenants begins until the job is resumed."""
    return await api.post(_path(job_id, "pause"), {"reason": reason})


@command(group, is_wrong=has_failed, note=who_runs)
async def resume(
    api: Api,
    job_id: JobArgument,
    *,
    failures_max: Annotated[
        Any,
        typer.Option(parser=_failures, metavar="N|0.N", help="Allowed further failures. Default: unchanged."),
    ] = None,
    is_waited_for: WaitOption = False,
) -> Document:
    """Resume a paused or stopped job, and accept its failures so far."""
    job = await api.post(_path(job_id, "resume"), {"failures_max": failures_max})
    return await wait_for(api, job_id) if is_waited_for else job


@command(group)
async def cancel(api: Api, job_id: JobArgument, *, reason: ReasonOption = None) -> Document:
    """Cancel a job, so that no work on further tenants begins."""
    return await api.post(_path(job_id, "cancel"), {"reason": reason})


@command(group, is_wrong=has_failed)
async def wait(api: Api, job_id: JobArgument) -> Document:
    """Wait until a job has ended, or is paused or stopped. The exit code is 1 unless the job is done without failures."""
    return await wait_for(api, job_id)


async def wait_for(api: Api, job_id: str) -> Document:
    """Wait until a job has ended, or is paused or stopped, and return its progress, which is shown meanwhile."""
    import anyio

    with counting(f"job {job_id}") as show:
        job = await _progress(api, job_id)
        for seconds in poll_seconds():
            show(job["done"] + job["failed"], job["total"])
            if job["state"] not in _LIVE:
                break
            await anyio.sleep(seconds)
            job = await _progress(api, job_id)
    return job


async def _progress(api: Api, job_id: str) -> Document:
    job = await api.get(_path(job_id))
    return {**job, **job.pop("progress", {})}


def _path(job_id: str, *parts: str) -> str:
    return api_path("jobs", job_id, *parts)
