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

CREATE FUNCTION tenants_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE tenant_states SET count = count - 1 WHERE state = old.state;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO tenant_states AS states (state, count) VALUES (new.state, 1)
            ON CONFLICT (state) DO UPDATE SET count = states.count + 1;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tenants_inserted AFTER INSERT OR DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION tenants_counted();

CREATE TRIGGER tenants_changed AFTER UPDATE OF state ON tenants FOR EACH ROW
    WHEN (old.state <> new.state) EXECUTE FUNCTION tenants_counted();
