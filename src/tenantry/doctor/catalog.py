"""Looks whether this tenantry can open the catalog."""

from typing import Final

from tenantry.doctor.finding import Finding, note, ok, wrong
from tenantry.errors import MigrationError
from tenantry.statements import Fetch, Statement
from tenantry.storage.migrations import plan_migrations
from tenantry.storage.sqlite.inspection import Inspection
from tenantry.storage.sqlite.migrator import SUMMARY_SQL, plan_from_summary
from tenantry.tenancy.catalog.catalog import CATALOG

_CHECK: Final = "catalog"
_SUMMARY: Final = Statement("doctor.catalog_version", SUMMARY_SQL, (), Fetch.ONE)


async def check_version(catalog: Inspection) -> Finding:
    """Compare the catalog's migrations with those that this tenantry knows: a service refuses a newer catalog.

    Raises:
        PersistenceError: The catalog cannot be read.
    """
    file_version, applied_json = await catalog.read(_SUMMARY)
    try:
        plan = plan_from_summary(
            lambda applied, version: plan_migrations([CATALOG], "sqlite", applied, version),
            file_version,
            applied_json,
        )
    except MigrationError as error:
        return wrong(
            _CHECK,
            f"this tenantry cannot open it: {error}",
            "start the tenantry that has used the directory last, or a newer one",
        )
    if plan.pending:
        return note(
            _CHECK,
            f"it lacks {len(plan.pending)} migrations",
            "nothing: the next service that starts applies them; older versions of tenantry cannot open it after that",
        )
    return ok(_CHECK, f"it is at version {file_version}")
