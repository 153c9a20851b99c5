"""The option ``roles``: each tenant's statements run as a role of the tenant, which has no rights outside the tenant's schema.

Without the option, only ``search_path`` separates tenants, and a statement could name another tenant's schema. With it, the server
refuses that (SQLSTATE 42501). The role cannot log in. It owns the tables of the schema, so there are no rights to keep up to date: a
migration runs as the role, and what it makes belongs to the role. The schema itself stays the property of the connection's role: a
schema's owner would need the right to create other schemas. The connection's role is a member of every tenant's role, and so may do
everything as before.

A schema gets its role when a store connects. So a restored schema, and a tenant from before the option, get theirs at the next opening.

Roles belong to the whole server and not to a database. A role's name therefore comes from the tenant's key, which is unique everywhere.
"""

from typing import Final

from tenantry.storage.postgres.connections.errors import map_error
from tenantry.storage.postgres.connections.locks import name_key
from tenantry.storage.postgres.connections.pipeline import OK, Pipeline
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.quoting import literal, quoted

_PREFIX: Final = "tenantry_"
_LOCK: Final = b"SELECT pg_advisory_xact_lock($1)"
_IS_GIVEN: Final = b"""
SELECT count(*) FROM pg_catalog.pg_namespace AS n, pg_catalog.pg_roles AS r
WHERE n.nspname = $1 AND r.rolname = $2 AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')
"""
# {role} and {schema} are quoted names; {role_text} and {schema_text} are the same as texts.
_GIVE: Final = """
DO $give$
DECLARE
    found record;
BEGIN
    BEGIN
        CREATE ROLE {role} NOLOGIN;
    EXCEPTION WHEN duplicate_object THEN
        NULL;
    END;
    IF NOT pg_catalog.pg_has_role(current_user, {role_text}, 'USAGE') THEN
        GRANT {role} TO CURRENT_USER;
    END IF;
    GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};
    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = {schema_text}::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_depend AS d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S'
            )
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO {role}', found.name);
    END LOOP;
    FOR found IN
        SELECT p.oid::regprocedure AS name FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = {schema_text}::regnamespace
    LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO {role}', found.name);
    END LOOP;
    FOR found IN
        SELECT t.oid::regtype AS name FROM pg_catalog.pg_type AS t
        WHERE t.typnamespace = {schema_text}::regnamespace AND t.typtype IN ('d', 'e')
    LOOP
        EXECUTE format('ALTER TYPE %s OWNER TO {role}', found.name);
    END LOOP;
END
$give$
"""
_DROP: Final = """
DO $drop$
BEGIN
    DROP ROLE IF EXISTS {role};
EXCEPTION WHEN dependent_objects_still_exist THEN
    -- The tenant is in another database of the server, too: a move has not ended.
    NULL;
END
$drop$
"""


def role_of(tenant_uid: str) -> str:
    """Return the name of a tenant's role."""
    return f"{_PREFIX}{tenant_uid}"


async def give_to_role(owner: Owner, role: str, pipeline: Pipeline, timeout_seconds: float) -> None:
    """Make the role, and make it the owner of everything in the tenant's schema; a no-op if it is.

    Raises:
        PersistenceError: The server refused it: the connection's role may not create roles, or does not own the schema.
    """
    pipeline.send(_IS_GIVEN, [owner.schema.encode(), role.encode()])
    pipeline.sync()
    ((result,),) = await pipeline.results(timeout_seconds)
    if result.status in OK and result.get_value(0, 0) != b"0":
        return
    names = {
        "role": quoted(role),
        "role_text": literal(role),
        "schema": quoted(owner.schema),
        "schema_text": literal(quoted(owner.schema)),
    }
    # Two stores that connect at the same time would change the same rows of the server's catalog.
    pipeline.send(_LOCK, [b"%d" % name_key(f"role {role}")])
    pipeline.send(_GIVE.format(**names).encode())
    pipeline.sync()
    (results,) = await pipeline.results(timeout_seconds)
    for result in results:
        if result.status not in OK:
            raise map_error(result, f"cannot give the schema {owner.schema} to the role {role}")


def drop_statement(tenant_uid: str) -> str:
    """Return the statement that drops a tenant's role after the tenant's last schema was dropped; a missing role is not an error."""
    return _DROP.format(role=quoted(role_of(tenant_uid)))
