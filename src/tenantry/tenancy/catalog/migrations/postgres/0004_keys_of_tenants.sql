-- A key that names tenants follows a tenant that is renamed, and loses a tenant that is purged; see SQLite's migration.
CREATE FUNCTION tenants_renamed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys
    SET tenants = (
        SELECT coalesce(jsonb_agg(id ORDER BY id), '[]')::text FROM (
            SELECT CASE value WHEN old.id THEN new.id ELSE value END COLLATE "C" AS id
            FROM jsonb_array_elements_text(api_keys.tenants::jsonb) AS named (value) WHERE value <> new.id
        ) AS renamed
    )
    WHERE EXISTS (
        SELECT 1 FROM jsonb_array_elements_text(tenants::jsonb) AS named (value) WHERE value IN (old.id, new.id)
    );
    RETURN NULL;
END $$;

CREATE TRIGGER tenants_renamed AFTER UPDATE OF id ON tenants FOR EACH ROW
    WHEN (old.id <> new.id) EXECUTE FUNCTION tenants_renamed();

CREATE FUNCTION tenants_purged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys SET tenants = (tenants::jsonb - old.id)::text
    WHERE EXISTS (SELECT 1 FROM jsonb_array_elements_text(tenants::jsonb) AS named (value) WHERE value = old.id);
    RETURN NULL;
END $$;

CREATE TRIGGER tenants_purged AFTER UPDATE OF state ON tenants FOR EACH ROW
    WHEN (old.state <> 'purged' AND new.state = 'purged') EXECUTE FUNCTION tenants_purged();

CREATE INDEX admin_audit_tenant_uid ON admin_audit (tenant_uid, seq);
