-- The schema packs that tenants have. A process that lacks one of them migrates no tenant.
CREATE TABLE schemas (
    name        text COLLATE "C" NOT NULL PRIMARY KEY,
    recorded_at text COLLATE "C" NOT NULL
);
