-- The durable list of tenants. The tables and columns are the same as on SQLite, so a catalog can be moved between the two.
-- COLLATE "C" is SQLite's order of text. Times are text of fixed length, as on SQLite: the audit's hashes cover their bytes.
CREATE TABLE tenants (
    uid               text COLLATE "C" NOT NULL PRIMARY KEY,
    id                text COLLATE "C" NOT NULL UNIQUE,
    location          text COLLATE "C" NOT NULL UNIQUE,
    display_name      text COLLATE "C" NOT NULL,
    state             text COLLATE "C" NOT NULL,
    reason            text COLLATE "C",
    state_before      text COLLATE "C",
    created_at        text COLLATE "C" NOT NULL,
    state_changed_at  text COLLATE "C" NOT NULL,
    purge_after       text COLLATE "C",
    schema_versions   text COLLATE "C" NOT NULL DEFAULT '{}',
    last_error        text COLLATE "C"
);

CREATE INDEX tenants_state ON tenants (state, id);

CREATE TABLE tenant_states (
    state text COLLATE "C" NOT NULL PRIMARY KEY,
    count bigint NOT NULL
);

-- The counts change once for each statement: a transaction that inserts many tenants must not leave a dead version of a count for each.
CREATE FUNCTION tenants_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tenant_states AS states (state, count) SELECT state, count(*) FROM inserted GROUP BY state
        ON CONFLICT (state) DO UPDATE SET count = states.count + excluded.count;
    RETURN NULL;
END $$;

CREATE TRIGGER tenants_inserted AFTER INSERT ON tenants REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION tenants_inserted();

CREATE FUNCTION tenants_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tenant_states AS states SET count = states.count - gone.count
    FROM (SELECT state, count(*) AS count FROM removed GROUP BY state) AS gone WHERE states.state = gone.state;
    RETURN NULL;
END $$;

CREATE TRIGGER tenants_removed AFTER DELETE ON tenants REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION tenants_removed();

CREATE FUNCTION tenants_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tenant_states SET count = count - 1 WHERE state = old.state;
    INSERT INTO tenant_states AS states (state, count) VALUES (new.state, 1)
        ON CONFLICT (state) DO UPDATE SET count = states.count + 1;
    RETURN NULL;
END $$;

CREATE TRIGGER tenants_changed AFTER UPDATE OF state ON tenants FOR EACH ROW
    WHEN (old.state <> new.state) EXECUTE FUNCTION tenants_changed();
