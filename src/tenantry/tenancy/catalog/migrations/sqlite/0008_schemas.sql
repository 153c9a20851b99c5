-- The schema packs that tenants of this data directory have. A process that lacks one of them migrates no tenant.
CREATE TABLE schemas (
    name        TEXT NOT NULL PRIMARY KEY,
    recorded_at TEXT NOT NULL  -- when the first tenant had got it
) STRICT, WITHOUT ROWID;

-- Of a directory from before: the packs that its tenants were migrated to.
INSERT INTO schemas (name, recorded_at)
SELECT versions.key, min(tenants.created_at) FROM tenants, json_each(tenants.schema_versions) AS versions
WHERE tenants.state <> 'purged' GROUP BY versions.key;
