"""Creates the back end of a registry."""

from collections.abc import Sequence

from tenantry.clock import Clock
from tenantry.config import RegistryConfig
from tenantry.eventlog import EventLog
from tenantry.schemas.schema import Schema
from tenantry.storage.protocol import Backend
from tenantry.storage.sqlite.backend import SQLiteBackend


def make_backend(
    config: RegistryConfig, schemas: Sequence[Schema], *, clock: Clock, log: EventLog
) -> Backend:
    """Return the back end for the settings; the back end is not open yet."""
    return SQLiteBackend(config, schemas, clock=clock, log=log)
