"""Finds the processes that have a data directory open, by their sockets, the tenants' lock files and the directory's lock."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.doctor.machine import holders_of
from tenantry.doctor.open_tenants import find_open_tenants
from tenantry.doctor.process import OpenTenant, Process, ProcessState
from tenantry.doctor.sockets import SocketAnswer, ask_sockets
from tenantry.eventlog import EventLog
from tenantry.files.durable_files import lstat
from tenantry.files.lock_file import HOST
from tenantry.tenancy.peers.process_slots import ProcessSlots
from tenantry.tenancy.tenant_record import TenantRecord

PEERS: Final = "peers"
"""The folder of the sockets in a data directory."""


class Processes(NamedTuple):
    """The processes that have a data directory open.

    Attributes:
        processes: The processes.
        open_tenants: The tenants that the processes own.
        abandoned: The names of sockets whose processes have ended.
    """

    processes: Sequence[Process] = ()
    open_tenants: Sequence[OpenTenant] = ()
    abandoned: Sequence[str] = ()


async def find_processes(data_dir: Path, tenants: Sequence[TenantRecord]) -> Processes:
    """Return the processes that have the data directory open.

    Args:
        data_dir: The data directory.
        tenants: All tenants of the catalog; without them the owners of tenants are not known.
    """
    open_tenants = find_open_tenants(data_dir, tenants)
    answers = await ask_sockets(data_dir)
    names = {answer.name for answer in answers if answer.state is not None}
    if any(one.socket_name is not None and one.socket_name not in names for one in open_tenants):
        # The owner has closed its registry in the meantime, or its socket was removed: the tenants' locks say which.
        still_open = find_open_tenants(data_dir, tenants)
        open_tenants = [one for one in open_tenants if one in still_open]
    numbers = {
        holder.socket_name: holder.number for holder in ProcessSlots(data_dir, log=EventLog()).others()
    }
    listening = [
        _listening(data_dir, answer, open_tenants, numbers.get(answer.name))
        for answer in answers
        if answer.state is not None
    ]
    others = list(_without_socket(names, open_tenants))
    known = {answer.pid for answer in answers} | {one.pid for one in (*listening, *others)}
    # A registry has a shared lock on the data directory while it is open.
    ownerless = [_not_listening(pid, HOST) for pid in sorted(holders_of(data_dir) - known - {os.getpid()})]
    abandoned = [answer.name for answer in answers if answer.state is None]
    return Processes([*listening, *others, *ownerless], open_tenants, abandoned)


def _listening(
    data_dir: Path, answer: SocketAnswer, open_tenants: Iterable[OpenTenant], number: int | None
) -> Process:
    assert answer.state is not None
    owned = [tenant for tenant in open_tenants if tenant.socket_name == answer.name]
    pid, host, version, schemas = answer.pid, None, None, None
    if answer.welcome is not None:
        pid, version, schemas = answer.welcome.pid, answer.welcome.version, answer.welcome.schemas
        host = answer.welcome.host or None
    elif owned:
        pid, host = owned[0].pid, owned[0].host
    found = lstat(data_dir / PEERS / answer.name)
    reason = answer.reason
    if answer.state is ProcessState.SILENT and answer.pid is not None and _is_stopped(answer.pid):
        reason = "it is stopped"
    return Process(
        pid=pid,
        host=host,
        state=answer.state,
        reason=reason,
        version=version,
        schemas=schemas,
        # The socket was made when the process opened the data directory.
        open_since=None if found is None else datetime.fromtimestamp(found.st_mtime, UTC),
        socket_name=answer.name,
        number=number,
        owned_tenants=len(owned),
    )


def _without_socket(names: set[str], open_tenants: Iterable[OpenTenant]) -> Iterator[Process]:
    """Yield the owners of tenants that have no socket in the data directory."""
    owners = Counter(
        (one.pid, one.host, one.socket_name) for one in open_tenants if one.socket_name not in names
    )
    for (pid, host, socket_name), owned_tenants in sorted(owners.items(), key=str):
        process = _not_listening(pid, host)
        reason = "its socket was removed" if socket_name is not None else process.reason
        yield process.model_copy(
            update={"reason": reason, "socket_name": socket_name, "owned_tenants": owned_tenants}
        )


def _not_listening(pid: int, host: str) -> Process:
    return Process(pid=pid, host=host, state=ProcessState.NOT_LISTENING, reason="it has no socket")


def _is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal or a debugger; see proc_pid_stat(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(") ")[2][:1] in {"T", "t"}
