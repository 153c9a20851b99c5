"""Checks the processes that have a data directory open: whether calls can be forwarded between them."""

import os
from collections.abc import Iterator, Sequence

from tenantry.config import RegistryConfig
from tenantry.doctor.finding import Finding, counted, note, ok, wrong
from tenantry.doctor.process import Process, ProcessState
from tenantry.doctor.processes import PEERS, Processes
from tenantry.doctor.sockets import ANSWER_SECONDS_MAX

_CHECK = "processes"
_SOCKETS = "sockets"


def check_processes(found: Processes, config: RegistryConfig) -> Iterator[Finding]:
    """Yield the findings about the processes, about their sockets, and about the settings for forwarding."""
    processes = found.processes
    problems = [
        *_silent(processes),
        *_refusing(processes),
        *_not_listening(processes),
        *_different_versions(processes),
        *_different_schemas(processes),
    ]
    if not config.forwarding:
        problems.append(
            note(
                _CHECK,
                "these settings switch forwarding off",
                "nothing, if only one process uses each tenant: any other process gets TenantOwnedElsewhereError",
            )
        )
    yield from problems or [
        ok(
            _CHECK,
            f"{counted(len(processes), 'process has', 'processes have')} the directory open, and "
            f"{counted(len(found.open_tenants), 'tenant is', 'tenants are')} open",
        )
    ]
    yield from _sockets(found, config)


def _of(processes: Sequence[Process], state: ProcessState) -> list[Process]:
    return [process for process in processes if process.state is state]


def _with_reasons(processes: Sequence[Process]) -> set[str]:
    return {f"{process}: {process.reason}" for process in processes}


def _silent(processes: Sequence[Process]) -> Iterator[Finding]:
    silent = _of(processes, ProcessState.SILENT)
    if silent:
        yield wrong(
            _CHECK,
            f"{counted(len(silent), 'process has', 'processes have')} not answered within {ANSWER_SECONDS_MAX:g} s: calls of other "
            "processes to their tenants fail with CallTimeoutError",
            "find out whether the process is stopped (kill -CONT continues it) or its event loop is blocked; its tenants can be opened "
            "elsewhere only after it has ended",
            _with_reasons(silent),
        )


def _refusing(processes: Sequence[Process]) -> Iterator[Finding]:
    refusing = _of(processes, ProcessState.REFUSING)
    if refusing:
        yield note(
            _CHECK,
            f"{counted(len(refusing), 'process refuses', 'processes refuse')} this command",
            "run this command with the release and as the user of these processes",
            _with_reasons(refusing),
        )


def _not_listening(processes: Sequence[Process]) -> Iterator[Finding]:
    not_listening = _of(processes, ProcessState.NOT_LISTENING)
    if not_listening:
        yield note(
            _CHECK,
            f"{counted(len(not_listening), 'process takes', 'processes take')} no calls of other processes, which are refused the tenants "
            "that these processes own",
            "nothing, if forwarding is switched off there; otherwise see the warning tenantry.peers.not_heard in the logs, and restart the "
            "processes",
            _with_reasons(not_listening),
        )


def _different_versions(processes: Sequence[Process]) -> Iterator[Finding]:
    versions = {process.version for process in processes if process.version is not None}
    if len(versions) > 1:
        yield note(
            _CHECK,
            f"the processes run different versions of tenantry: {', '.join(sorted(versions))}",
            "finish the upgrade",
            {f"{process}: {process.version}" for process in processes if process.version is not None},
        )


def _different_schemas(processes: Sequence[Process]) -> Iterator[Finding]:
    known = [process for process in processes if process.schemas is not None]
    packs = {name for process in known for name in process.schemas or {}}
    different: set[str] = set()
    missing: set[str] = set()
    for name in packs:
        versions = [(process, (process.schemas or {}).get(name)) for process in known]
        described = {f"{process}: {name} {version or 'missing'}" for process, version in versions}
        distinct = {version for _, version in versions}
        if len(distinct - {None}) > 1:
            different |= described
        elif None in distinct:
            missing |= described
    if different:
        yield wrong(
            _CHECK,
            "the processes have different versions of a schema pack: calls between them are refused",
            "run the same release of the application in all processes",
            different,
        )
    if missing:
        yield note(
            _CHECK,
            "some processes lack a schema pack: the other processes' calls to their tenants are refused",
            "give all processes the same schema packs",
            missing,
        )


def _sockets(found: Processes, config: RegistryConfig) -> Iterator[Finding]:
    directory = config.data_dir / PEERS
    is_usable = not directory.exists() or (
        directory.is_dir() and os.access(directory, os.R_OK | os.W_OK | os.X_OK)
    )
    if not is_usable:
        yield wrong(
            _SOCKETS,
            f"{directory} is not a directory in which the user {os.geteuid()} may read and write: a process that starts now neither takes "
            "nor forwards calls",
            f"remove {directory}, which holds only sockets, then restart the processes",
        )
    elif found.abandoned:
        yield note(
            _SOCKETS,
            f"{counted(len(found.abandoned), 'socket', 'sockets')} of processes that were killed",
            "nothing: the next process that opens the directory removes them",
            found.abandoned,
        )
    else:
        yield ok(_SOCKETS, "no process has left a socket behind")
