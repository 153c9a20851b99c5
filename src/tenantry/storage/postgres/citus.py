"""Schema-based sharding with the extension Citus: each tenant's schema is placed on one node of a cluster.

Without the extension nothing here has an effect. This was never tried on a real cluster; the tests check the statements that are sent.

* `DISTRIBUTE` makes the next ``CREATE SCHEMA`` of the transaction create a distributed schema. The schema and its tables are separate
  statements, as Citus requires. The catalog's schema is not distributed: it stays on the coordinator.
* A write transaction sends its guard and its mark as two statements, because Citus refuses an INSERT beside subqueries (`statements/head.py`).
* ``ALTER SCHEMA … RENAME`` is propagated to the nodes since Citus 10, ``FOR UPDATE`` and ``ON CONFLICT`` work in a query of one node, and
  operators move a tenant with ``citus_schema_move``.
* Tenantry connects to the coordinator, because only newer versions allow DDL from other nodes.
"""

from typing import Any, Final

from psycopg import Connection

DISTRIBUTE: Final = "SELECT set_config('citus.enable_schema_based_sharding', 'on', true)"
"""Without the extension the setting is unknown, and a transaction may set unknown settings with a dot in their name."""

_VERSION: Final = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'"
_SPREAD: Final = """
SELECT coalesce(sh.nodename || ':' || sh.nodeport, 'no node yet'), count(DISTINCT s.schema_name)
FROM citus_schemas AS s LEFT JOIN citus_shards AS sh ON sh.colocation_id = s.colocation_id
GROUP BY 1 ORDER BY 1
"""


def describe_spread(connection: Connection[tuple[Any, ...]]) -> str:
    """Return the version of Citus and the number of tenants' schemas on each node, as a text; ``none`` without the extension."""
    found = connection.execute(_VERSION).fetchone()
    if found is None:
        return "none"
    nodes = [f"{schemas} on {node}" for node, schemas in connection.execute(_SPREAD).fetchall()]
    return f"Citus {found[0]}, distributed schemas: {', '.join(nodes) or 'none yet'}"
