"""Fits the pool of open tenants to the number of files that the process may open."""

import resource
from typing import Final

from tenantry.config import OPEN_TENANTS_MAX, SQLITE, RegistryConfig
from tenantry.errors import PersistenceConnectionError
from tenantry.eventlog import EventLog
from tenantry.storage.sqlite.database_files.data_files import find_tenant_directories

# The writer opens the lock, the database, the write-ahead log and the shared memory. Each reader opens the database and the log.
_WRITER_FILES: Final = 4
_READER_FILES: Final = 2
_OTHER_FILES: Final = 64

_FREE_PART: Final = 4
"""The default pool leaves one in this number of files to the rest of the process, for example to the connections of an HTTP server."""

POOL_LOWERED: Final = "tenantry.registry.pool_lowered"


def fit_to_open_files(config: RegistryConfig) -> RegistryConfig:
    """Return the settings with the default of ``open_tenants_max`` lowered to the number of tenants for which the process may open files.

    A quarter of the process's limit, and at least 64 files, is left to the rest of the process. The limit of 1,024 files, which many
    systems set, therefore allows 128 tenants with one reader each. A limit of 4,096 files allows the default of 512.

    A value that the user has set is not lowered: `check_open_files` refuses a value that does not fit. The default for new tenants on a
    server is not lowered either, because an open tenant there has no file.
    """
    limit = _open_files_max()
    if limit is None or not _has_default_pool(config):
        return config
    files = limit - max(_OTHER_FILES, limit // _FREE_PART)
    fitting = max(1, files // _files_of_a_tenant(config))
    if fitting >= config.open_tenants_max:
        return config
    # The value remains a default: it is not in `model_fields_set`.
    return type(config).model_construct(
        config.model_fields_set, **{**dict(config), "open_tenants_max": fitting}
    )


def log_fitted_pool(config: RegistryConfig, log: EventLog) -> None:
    """Log that the default of ``open_tenants_max`` was lowered by `fit_to_open_files`, and what an operator can do."""
    if not _has_default_pool(config) or config.open_tenants_max == OPEN_TENANTS_MAX:
        return
    needed = -(-OPEN_TENANTS_MAX * _files_of_a_tenant(config) * _FREE_PART // (_FREE_PART - 1))
    log.info(
        POOL_LOWERED,
        open_tenants_max=config.open_tenants_max,
        default_open_tenants_max=OPEN_TENANTS_MAX,
        open_files_max=_open_files_max(),
        to_do=f"raise the limit of open files to {needed} (LimitNOFILE= or ulimit -n), or set open_tenants_max",
    )


def check_open_files(config: RegistryConfig) -> None:
    """Raise `PersistenceConnectionError` unless the process may open as many files as the pool can hold.

    If new tenants are on a server, only the tenants that have files already are counted.
    """
    tenants = config.open_tenants_max
    if config.new_tenants_backend != SQLITE:
        tenants = min(tenants, sum(1 for _ in find_tenant_directories(config.data_dir)))
    files = tenants * _files_of_a_tenant(config) + _OTHER_FILES
    limit = _open_files_max()
    if limit is not None and files > limit:
        raise PersistenceConnectionError(
            f"open_tenants_max ({config.open_tenants_max}) with readers_per_tenant ({config.readers_per_tenant}) needs "
            f"{files} open files, but this process may open only {limit}: lower these settings, or raise the limit (ulimit -n)",
            is_retryable=False,
        )


def _has_default_pool(config: RegistryConfig) -> bool:
    return config.new_tenants_backend == SQLITE and "open_tenants_max" not in config.model_fields_set


def _open_files_max() -> int | None:
    """Return the number of files that the process may have open; None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit in {-1, resource.RLIM_INFINITY} else limit


def _files_of_a_tenant(config: RegistryConfig) -> int:
    return _WRITER_FILES + _READER_FILES * config.readers_per_tenant
