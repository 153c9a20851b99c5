"""Integrations with FastAPI and Starlette (the extra ``service``) and with SQLAlchemy Core (the extra ``sqlalchemy``)."""

from typing import TYPE_CHECKING

from tenantry.lazy_names import lazy_names as _lazy_names

if TYPE_CHECKING:
    from tenantry.integrations.fastapi import (
        TenantDependency,
        install_error_handlers,
        opened_registry,
        registry_lifespan,
    )
    from tenantry.integrations.scraping import MetricsEndpoint
    from tenantry.integrations.sources import Source, from_header, from_path, from_subdomain
    from tenantry.integrations.sqlalchemy import SqlAlchemyCore

__all__ = [
    "MetricsEndpoint",
    "Source",
    "SqlAlchemyCore",
    "TenantDependency",
    "from_header",
    "from_path",
    "from_subdomain",
    "install_error_handlers",
    "opened_registry",
    "registry_lifespan",
]

# Each integration needs another library, so an integration is imported only at its first use.
__getattr__ = _lazy_names(
    __name__,
    {
        "tenantry.integrations.fastapi": (
            "TenantDependency",
            "install_error_handlers",
            "opened_registry",
            "registry_lifespan",
        ),
        "tenantry.integrations.scraping": ("MetricsEndpoint",),
        "tenantry.integrations.sources": ("Source", "from_header", "from_path", "from_subdomain"),
        "tenantry.integrations.sqlalchemy": ("SqlAlchemyCore",),
    },
    extras={
        "tenantry.integrations.fastapi": "service",
        "tenantry.integrations.scraping": "service",
        "tenantry.integrations.sources": "service",
        "tenantry.integrations.sqlalchemy": "sqlalchemy",
    },
)
