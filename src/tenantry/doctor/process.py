"""A process that has a data directory open, and a tenant that a process has open, as an examination reports them."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class ProcessState(StrEnum):
    """How a process treats the calls of other processes.

    An ``answering`` process has answered the doctor. A ``silent`` process listens, but has not answered in time. A ``refusing`` process
    has closed the connection or has refused this release. A process that is ``not_listening`` takes no calls of other processes.
    """

    ANSWERING = "answering"
    SILENT = "silent"
    REFUSING = "refusing"
    NOT_LISTENING = "not_listening"


class Process(BaseModel):
    """A process that has the data directory open. A process with two open registries is listed twice.

    Attributes:
        pid: The process id, as the process itself sees it, or else as this machine sees it; None if neither is known.
        host: The name of the process's host or container; None if it is not known.
        state: How the process treats the calls of other processes.
        reason: Why the process does not answer; empty if it answers.
        version: The version of tenantry, if the process answers.
        schemas: The version of each schema pack, if the process answers.
        open_since: The time at which the process opened the data directory, if the process listens.
        socket_name: The name of the process's socket in ``peers``, if the process listens.
        number: The value of the label ``process`` in metrics, if the process has a number.
        owned_tenants: The number of tenants that the process has open.
    """

    model_config = ConfigDict(frozen=True)

    pid: int | None
    host: str | None
    state: ProcessState
    reason: str = ""
    version: str | None = None
    schemas: Mapping[str, int] | None = None
    open_since: datetime | None = None
    socket_name: str | None = None
    number: int | None = None
    owned_tenants: int = 0

    def __str__(self) -> str:
        """Return the name of the process in findings."""
        host = "" if self.host is None else f" on {self.host}"
        name = "" if self.socket_name is None else f" (socket {self.socket_name})"
        return f"process {self.pid or 'unknown'}{host}{name}"


class OpenTenant(BaseModel):
    """A tenant that a process has open, and the process, as the tenant's lock file names it."""

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    pid: int
    host: str
    socket_name: str | None
