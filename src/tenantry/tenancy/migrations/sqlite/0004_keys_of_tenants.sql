-- A key for some tenants names them by id, and an id may come to be another company's. So a key follows a tenant that is
-- renamed, and lets go of one that is purged, in the transaction that does it.
CREATE TRIGGER tenants_renamed AFTER UPDATE OF id ON tenants WHEN old.id <> new.id BEGIN
    UPDATE api_keys
    SET tenants = (
        SELECT json_group_array(id) FROM (
            SELECT DISTINCT CASE value WHEN old.id THEN new.id ELSE value END AS id FROM json_each(api_keys.tenants) ORDER BY 1
        )
    )
    WHERE EXISTS (SELECT 1 FROM json_each(api_keys.tenants) WHERE value = old.id);
END;

CREATE TRIGGER tenants_purged AFTER UPDATE OF state ON tenants WHEN old.state <> 'purged' AND new.state = 'purged' BEGIN
    UPDATE api_keys
    SET tenants = (SELECT json_group_array(value) FROM json_each(api_keys.tenants) WHERE value <> old.id)
    WHERE EXISTS (SELECT 1 FROM json_each(api_keys.tenants) WHERE value = old.id);
END;
