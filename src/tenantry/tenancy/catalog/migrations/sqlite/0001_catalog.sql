-- The durable list of tenants. Several processes write it, so every change is one short transaction.
CREATE TABLE tenants (
    uid               TEXT    NOT NULL PRIMARY KEY,  -- stable for life; the tenant's own database carries it too
    id                TEXT    NOT NULL UNIQUE,       -- what callers use
    directory         TEXT    NOT NULL UNIQUE,       -- the name of its directory; never moves
    display_name      TEXT    NOT NULL,
    state             TEXT    NOT NULL,
    reason            TEXT,                          -- why it is in that state, where someone said so
    state_before      TEXT,                          -- of a deleted tenant: where undelete leads
    created_at        TEXT    NOT NULL,
    state_changed_at  TEXT    NOT NULL,
    purge_after       TEXT,                          -- of a deleted tenant: the end of its grace period
    schema_versions   TEXT    NOT NULL DEFAULT '{}', -- JSON: the version each schema was at when last opened
    last_error        TEXT
) STRICT, WITHOUT ROWID;

-- Pages of one state, in the order of their ids; pages of all use the UNIQUE index on id.
CREATE INDEX tenants_state ON tenants (state, id);

-- Counted as they change: a scrape must not count 100,000 rows.
CREATE TABLE tenant_states (
    state TEXT    NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER tenants_inserted AFTER INSERT ON tenants BEGIN
    INSERT INTO tenant_states (state, count) VALUES (new.state, 1)
        ON CONFLICT (state) DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER tenants_changed AFTER UPDATE OF state ON tenants WHEN old.state <> new.state BEGIN
    UPDATE tenant_states SET count = count - 1 WHERE state = old.state;
    INSERT INTO tenant_states (state, count) VALUES (new.state, 1)
        ON CONFLICT (state) DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER tenants_removed AFTER DELETE ON tenants BEGIN
    UPDATE tenant_states SET count = count - 1 WHERE state = old.state;
END;
