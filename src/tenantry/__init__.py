"""Keeps many companies' data apart, durable and fast: one SQLite file and one writer per tenant, behind a bounded pool."""

from tenantry.config import RegistryConfig
from tenantry.ids import TenantId
from tenantry.lifecycle import TenantState
from tenantry.limits import TenantLimits
from tenantry.migration import MigrationSession
from tenantry.pages import Page
from tenantry.repository import Repository
from tenantry.row import Row
from tenantry.schema import Schema
from tenantry.statements import Fetch, Sql, Statement
from tenantry.tenancy.fleet.job import (
    FleetJob,
    FleetProgress,
    FleetResult,
    JobState,
    TenantMigrationStatus,
)
from tenantry.tenancy.handle import IdempotentWrite, TenantHandle, TenantTransaction
from tenantry.tenancy.registry import TenantRegistry
from tenantry.tenancy.statistics import RegistryStatistics
from tenantry.tenancy.tenant_record import TenantRecord

__all__ = [
    "Fetch",
    "FleetJob",
    "FleetProgress",
    "FleetResult",
    "IdempotentWrite",
    "JobState",
    "MigrationSession",
    "Page",
    "RegistryConfig",
    "RegistryStatistics",
    "Repository",
    "Row",
    "Schema",
    "Sql",
    "Statement",
    "TenantHandle",
    "TenantId",
    "TenantLimits",
    "TenantMigrationStatus",
    "TenantRecord",
    "TenantRegistry",
    "TenantState",
    "TenantTransaction",
]
