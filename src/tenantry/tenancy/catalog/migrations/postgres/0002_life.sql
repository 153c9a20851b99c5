-- The whole life of a tenant, the audit, and fleet jobs; the comments on the columns are in SQLite's migration.
ALTER TABLE tenants
    ADD COLUMN revision bigint NOT NULL DEFAULT 1,
    ADD COLUMN intent text COLLATE "C",
    ADD COLUMN previous_id text COLLATE "C",
    ADD COLUMN deletion_protected boolean NOT NULL DEFAULT false,
    ADD COLUMN limits text COLLATE "C" NOT NULL DEFAULT '{}',
    ADD COLUMN restore_point text COLLATE "C",
    ADD COLUMN snapshot_due_at text COLLATE "C";

CREATE INDEX tenants_intent ON tenants (id) WHERE intent IS NOT NULL;
CREATE INDEX tenants_purge_after ON tenants (purge_after, id) WHERE purge_after IS NOT NULL;
-- Due tenants are listed with NULL first.
CREATE INDEX tenants_snapshot_due_at ON tenants (state, snapshot_due_at NULLS FIRST, id);

CREATE TABLE admin_audit (
    seq           bigint NOT NULL PRIMARY KEY,
    at            text COLLATE "C" NOT NULL,
    actor         text COLLATE "C" NOT NULL,
    action        text COLLATE "C" NOT NULL,
    tenant_id     text COLLATE "C",
    tenant_uid    text COLLATE "C",
    outcome       text COLLATE "C" NOT NULL,
    detail        text COLLATE "C" NOT NULL,
    previous_hash text COLLATE "C" NOT NULL,
    hash          text COLLATE "C" NOT NULL
);

CREATE INDEX admin_audit_tenant_id ON admin_audit (tenant_id, seq);

CREATE TABLE admin_audit_head (
    id   bigint NOT NULL PRIMARY KEY CHECK (id = 1),
    seq  bigint NOT NULL,
    hash text COLLATE "C" NOT NULL
);

INSERT INTO admin_audit_head VALUES (1, 0, '');

-- The head changes once for each statement, see the counts of tenants. The key is unique, so the numbers have no gap if the first follows
-- the head and there are as many rows as numbers.
CREATE FUNCTION admin_audit_appended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    added record;
BEGIN
    SELECT min(seq) AS first, max(seq) AS last, count(*) AS count INTO added FROM appended;
    IF added.count = 0 THEN
        RETURN NULL;
    END IF;
    UPDATE admin_audit_head SET seq = appended.seq, hash = appended.hash
    FROM appended WHERE appended.seq = added.last
        AND admin_audit_head.seq + 1 = added.first AND added.last - added.first + 1 = added.count;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'admin_audit is append-only';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION admin_audit_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'admin_audit is append-only';
END $$;

CREATE TRIGGER admin_audit_appended AFTER INSERT ON admin_audit REFERENCING NEW TABLE AS appended
    FOR EACH STATEMENT EXECUTE FUNCTION admin_audit_appended();

-- For each statement: TRUNCATE has no rows.
CREATE TRIGGER admin_audit_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON admin_audit
    FOR EACH STATEMENT EXECUTE FUNCTION admin_audit_refused();

CREATE TABLE fleet_jobs (
    id                text COLLATE "C" NOT NULL PRIMARY KEY,
    kind              text COLLATE "C" NOT NULL,
    options           text COLLATE "C" NOT NULL,
    state             text COLLATE "C" NOT NULL,
    reason            text COLLATE "C",
    created_by        text COLLATE "C" NOT NULL,
    created_at        text COLLATE "C" NOT NULL,
    begun_at          text COLLATE "C",
    state_changed_at  text COLLATE "C" NOT NULL,
    finished_before   bigint NOT NULL DEFAULT 0,
    failures_accepted bigint NOT NULL DEFAULT 0
);

CREATE INDEX fleet_jobs_state ON fleet_jobs (state, id);

CREATE TABLE fleet_waves (
    job_id  text COLLATE "C" NOT NULL REFERENCES fleet_jobs (id),
    wave    bigint NOT NULL,
    total   bigint NOT NULL,
    ok      bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    failed  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, wave)
);

CREATE TABLE fleet_results (
    job_id      text COLLATE "C" NOT NULL REFERENCES fleet_jobs (id),
    wave        bigint NOT NULL,
    position    bigint NOT NULL,
    tenant_uid  text COLLATE "C" NOT NULL,
    tenant_id   text COLLATE "C" NOT NULL,
    outcome     text COLLATE "C",
    error       text COLLATE "C",
    detail      text COLLATE "C" NOT NULL DEFAULT '{}',
    seconds     double precision,
    finished_at text COLLATE "C",
    PRIMARY KEY (job_id, wave, position)
);

CREATE INDEX fleet_results_failed ON fleet_results (job_id, wave, position) WHERE outcome NOT IN ('ok', 'skipped');

CREATE FUNCTION fleet_results_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE fleet_waves
    SET ok = ok + (new.outcome = 'ok')::integer,
        skipped = skipped + (new.outcome = 'skipped')::integer,
        failed = failed + (new.outcome NOT IN ('ok', 'skipped'))::integer
    WHERE job_id = new.job_id AND wave = new.wave;
    RETURN NULL;
END $$;

CREATE TRIGGER fleet_results_finished AFTER UPDATE OF outcome ON fleet_results FOR EACH ROW
    WHEN (old.outcome IS NULL AND new.outcome IS NOT NULL) EXECUTE FUNCTION fleet_results_counted();
