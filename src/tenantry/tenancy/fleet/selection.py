"""Which tenants a fleet job is for, and in which wave: chosen in the catalog, so that no process holds 100,000 of them."""

import secrets
from collections.abc import Sequence
from typing import Any, Final

from tenantry.ids import TenantId
from tenantry.statements import Statement
from tenantry.tenancy.fleet.job import FIRST_WAVE
from tenantry.tenancy.fleet.options import FleetOptions, as_json

# The first wave is spread evenly over the ids, beginning somewhere: of 10 among 1,000, every hundredth.
_INSERT_TENANTS: Final = """
INSERT INTO fleet_results (job_id, wave, position, tenant_uid, tenant_id)
SELECT ?, iif((rank + start) % total * canary % total < canary, ?, ?), rank, uid, id
FROM (
    SELECT uid, id, rank, total, ? AS start, min(total, max(?, (total * ? + 9999) / 10000)) AS canary
    FROM (
        SELECT uid, id, row_number() OVER (ORDER BY id) - 1 AS rank, count(*) OVER () AS total FROM tenants WHERE {where}
    )
)
"""


def select_tenants(job_id: str, options: FleetOptions, tenant_ids: Sequence[TenantId] | None) -> Statement:
    """Return the statement that gives a job its tenants.

    Args:
        job_id: The job.
        options: Its conditions, and the size of its first wave.
        tenant_ids: Only these.
    """
    rest = FIRST_WAVE if options.canary is None else FIRST_WAVE + 1
    where, parameters = _where(options, tenant_ids)
    start = secrets.randbelow(2**31)
    return Statement(
        "fleet.insert",
        _INSERT_TENANTS.format(where=where),
        (job_id, FIRST_WAVE, rest, start, *options.canary_size, *parameters),
    )


def _where(options: FleetOptions, tenant_ids: Sequence[TenantId] | None) -> tuple[str, list[Any]]:
    """Return the condition on tenants that the options make, and its parameters."""
    conditions = [f"state IN ({', '.join('?' * len(options.states))})"]
    parameters: list[Any] = [*options.states]
    if tenant_ids is not None:
        conditions.append("id IN (SELECT value FROM json_each(?))")
        parameters.append(as_json([*tenant_ids]))
    if options.id_prefix is not None:
        conditions.append("id >= ? AND id < ? || '{'")  # the character after z
        parameters += [options.id_prefix] * 2
    if options.below is not None:
        below = [
            ("coalesce(json_extract(schema_versions, ?), 0) < ?", (f"$.{name}", version))
            for name, version in options.below.items()
        ]
        conditions.append(f"({' OR '.join(sql for sql, _ in below)})")
        parameters += [value for _, values in below for value in values]
    return " AND ".join(conditions), parameters
