"""Selects a fleet job's tenants and waves in the catalog's SQL, so that no process loads 100,000 tenants into memory."""

import secrets
from collections.abc import Sequence
from typing import Any, Final

from tenantry.ids import TenantId
from tenantry.sql.repository import placeholders
from tenantry.sql.statements import Sql, Statement
from tenantry.tenancy.catalog.rows import ID_IN_JSON, after_prefix
from tenantry.tenancy.fleet.job import FIRST_WAVE
from tenantry.tenancy.fleet.options import FleetOptions, as_json

# The first wave is spread evenly over the ids, from a random start: for 10 of 1,000 tenants, every hundredth id is selected.
_INSERT: Final = f"""
INSERT INTO fleet_results (job_id, wave, position, tenant_uid, tenant_id)
SELECT ?, CASE WHEN (rank + ?) % total * canary % total < canary THEN {FIRST_WAVE:d} ELSE ? END, rank, uid, id FROM (
    SELECT uid, id, rank, total, {{canary}} AS canary FROM (
        SELECT uid, id, row_number() OVER (ORDER BY id) - 1 AS rank, count(*) OVER () AS total FROM tenants WHERE \
"""  # noqa: S608  # our own
_COUNT: Final = "CASE WHEN total < ? THEN total ELSE ? END"
_SHARE: Final = "(total * ? + 9999) / 10000"
_IS_BELOW: Final = Sql(
    {
        "sqlite": "coalesce(json_extract(schema_versions, '$.' || ?), 0) < ?",
        "postgres": "coalesce((schema_versions::jsonb ->> ?)::bigint, 0) < ?",
    }
)


def select_tenants(job_id: str, options: FleetOptions, tenant_ids: Sequence[TenantId] | None) -> Statement:
    """Return the statement that inserts the tenants of a job."""
    rest = FIRST_WAVE if options.canary is None else FIRST_WAVE + 1
    count, share = options.canary_size
    canary, size = (_SHARE, [share]) if share else (_COUNT, [count, count])
    where, parameters = _where(options, tenant_ids)
    sql = _INSERT.format(canary=canary) + where + ") AS ranked) AS sized"
    return Statement("fleet.insert", sql, (job_id, secrets.randbelow(2**31), rest, *size, *parameters))


def _where(options: FleetOptions, tenant_ids: Sequence[TenantId] | None) -> tuple[str | Sql, list[Any]]:
    """Return the SQL condition that selects the options' tenants, and the condition's parameters."""
    where: str | Sql = f"state IN ({placeholders(options.states)})"
    parameters: list[Any] = [*options.states]
    if tenant_ids is not None:
        where = where + " AND " + ID_IN_JSON
        parameters.append(as_json([*tenant_ids]))
    if options.id_prefix is not None:
        where = where + " AND id >= ? AND id < ?"
        parameters += [options.id_prefix, after_prefix(options.id_prefix)]
    if options.below is not None:
        where = where + " AND (1 = 0"
        for name, version in options.below.items():
            where = where + " OR " + _IS_BELOW
            parameters += [name, version]
        where = where + ")"
    return where, parameters
