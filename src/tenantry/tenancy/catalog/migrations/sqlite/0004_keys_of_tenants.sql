-- A key for some tenants names them by id, and an id may come to be another company's. So a key follows a tenant that is
-- renamed, and lets go of one that is purged, in the transaction that does it. A key that named the new id before it was
-- anybody's was not made for this tenant, and lets go of the id.
CREATE TRIGGER tenants_renamed AFTER UPDATE OF id ON tenants WHEN old.id <> new.id BEGIN
    UPDATE api_keys
    SET tenants = (
        SELECT json_group_array(id) FROM (
            SELECT CASE value WHEN old.id THEN new.id ELSE value END AS id
            FROM json_each(api_keys.tenants) WHERE value <> new.id ORDER BY 1
        )
    )
    WHERE EXISTS (SELECT 1 FROM json_each(api_keys.tenants) WHERE value IN (old.id, new.id));
END;

CREATE TRIGGER tenants_purged AFTER UPDATE OF state ON tenants WHEN old.state <> 'purged' AND new.state = 'purged' BEGIN
    UPDATE api_keys
    SET tenants = (SELECT json_group_array(value) FROM json_each(api_keys.tenants) WHERE value <> old.id)
    WHERE EXISTS (SELECT 1 FROM json_each(api_keys.tenants) WHERE value = old.id);
END;

-- Keys from before: what was purged or renamed since they were made is not known, so an id that a tenant has left is nobody's.
UPDATE api_keys
SET tenants = (
    SELECT json_group_array(value) FROM json_each(api_keys.tenants)
    WHERE value NOT IN (SELECT id FROM tenants WHERE state = 'purged')
      AND value NOT IN (SELECT previous_id FROM tenants WHERE previous_id IS NOT NULL)
)
WHERE tenants IS NOT NULL;

-- What was done to one tenant, whatever its id was then.
CREATE INDEX admin_audit_tenant_uid ON admin_audit (tenant_uid, seq);
