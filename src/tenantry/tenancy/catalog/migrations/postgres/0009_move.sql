-- Whether a move of the catalog to another back end has begun or ended; see SQLite's migration.
CREATE TABLE catalog_move (
    id      bigint NOT NULL PRIMARY KEY CHECK (id = 1),
    move_id text COLLATE "C" NOT NULL,
    state   text COLLATE "C" NOT NULL,
    backend text COLLATE "C" NOT NULL,
    place   text COLLATE "C" NOT NULL,
    at      text COLLATE "C" NOT NULL
);

-- A registry on another machine may still have the catalog open when it is moved away. None of its writes may be lost in the old one.
CREATE FUNCTION refuse_after_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM catalog_move WHERE state = 'left') THEN
        RAISE EXCEPTION 'the catalog was moved away';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tenants_moved BEFORE INSERT OR UPDATE OR DELETE ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_after_move();
CREATE TRIGGER admin_audit_moved BEFORE INSERT ON admin_audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_after_move();
CREATE TRIGGER fleet_jobs_moved BEFORE INSERT OR UPDATE OR DELETE ON fleet_jobs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_after_move();
CREATE TRIGGER fleet_results_moved BEFORE INSERT OR UPDATE OR DELETE ON fleet_results
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_after_move();
CREATE TRIGGER api_keys_moved BEFORE INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_after_move();
CREATE TRIGGER idempotent_requests_moved BEFORE INSERT OR UPDATE OR DELETE ON idempotent_requests
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_after_move();
CREATE TRIGGER schemas_moved BEFORE INSERT OR UPDATE OR DELETE ON schemas
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_after_move();
