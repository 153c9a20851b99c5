-- The whole life of a tenant: what is under way, what it may use, and what operators did.

-- Raised by every change of the columns that an operator decides on: the change is a compare-and-set on it.
ALTER TABLE tenants ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
-- JSON: the lifecycle call that was begun and has not ended; NULL in between. Whoever finds one of a process that has died
-- finishes it.
ALTER TABLE tenants ADD COLUMN intent TEXT;
-- The id before the last rename.
ALTER TABLE tenants ADD COLUMN previous_id TEXT;
ALTER TABLE tenants ADD COLUMN deletion_protected INTEGER NOT NULL DEFAULT 0;
-- JSON, see TenantLimits.
ALTER TABLE tenants ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
-- The file that the last restore replaced, by its name: where undo_restore leads.
ALTER TABLE tenants ADD COLUMN restore_point TEXT;
-- When the schedule next takes a snapshot of it; NULL: as soon as there is a schedule.
ALTER TABLE tenants ADD COLUMN snapshot_due_at TEXT;

-- Few rows of many, each looked for at every start or every minute.
CREATE INDEX tenants_intent ON tenants (id) WHERE intent IS NOT NULL;
CREATE INDEX tenants_purge_after ON tenants (purge_after, id) WHERE purge_after IS NOT NULL;
CREATE INDEX tenants_snapshot_due_at ON tenants (state, snapshot_due_at, id);

-- Who did what to which tenant. Each row's hash covers the row and the hash before it, so that an altered, removed or
-- inserted row is found; the head tells of rows that are missing at the end.
CREATE TABLE admin_audit (
    seq           INTEGER NOT NULL PRIMARY KEY,
    at            TEXT    NOT NULL,  -- UTC
    actor         TEXT    NOT NULL,  -- who
    action        TEXT    NOT NULL,  -- what: the call's name
    tenant_id     TEXT,              -- as the caller gave it
    tenant_uid    TEXT,
    outcome       TEXT    NOT NULL,  -- ok, or the error's
    detail        TEXT    NOT NULL,  -- JSON
    previous_hash TEXT    NOT NULL,
    hash          TEXT    NOT NULL
) STRICT;

CREATE INDEX admin_audit_tenant_id ON admin_audit (tenant_id, seq);

CREATE TABLE admin_audit_head (
    id   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    seq  INTEGER NOT NULL,
    hash TEXT    NOT NULL
) STRICT;

INSERT INTO admin_audit_head VALUES (1, 0, '');

CREATE TRIGGER admin_audit_inserted AFTER INSERT ON admin_audit BEGIN
    UPDATE admin_audit_head SET seq = new.seq, hash = new.hash;
END;

-- INSERT OR REPLACE, too, would remove a row, and no DELETE trigger hears of it.
CREATE TRIGGER admin_audit_appended BEFORE INSERT ON admin_audit
WHEN new.seq <> (SELECT seq + 1 FROM admin_audit_head) BEGIN
    SELECT RAISE(ABORT, 'admin_audit is append-only');
END;

CREATE TRIGGER admin_audit_not_updated BEFORE UPDATE ON admin_audit BEGIN
    SELECT RAISE(ABORT, 'admin_audit is append-only');
END;

CREATE TRIGGER admin_audit_not_deleted BEFORE DELETE ON admin_audit BEGIN
    SELECT RAISE(ABORT, 'admin_audit is append-only');
END;

-- The same work over many tenants, resumed by whoever opens a registry after a crash.
CREATE TABLE fleet_jobs (
    id                TEXT    NOT NULL PRIMARY KEY,  -- begins with the time it was made: in order
    kind              TEXT    NOT NULL,
    options           TEXT    NOT NULL,              -- JSON, see FleetOptions
    state             TEXT    NOT NULL,
    reason            TEXT,                          -- why it is in that state
    created_by        TEXT    NOT NULL,
    created_at        TEXT    NOT NULL,
    begun_at          TEXT,                          -- when a process last began to run it
    state_changed_at  TEXT    NOT NULL,
    finished_before   INTEGER NOT NULL DEFAULT 0,    -- how many tenants were finished when it was last begun
    failures_accepted INTEGER NOT NULL DEFAULT 0     -- those before an operator resumed it after a stop
) STRICT, WITHOUT ROWID;

CREATE INDEX fleet_jobs_state ON fleet_jobs (state, id);

-- Counted as tenants are finished: who asks how far a job is must not count 100,000 rows.
CREATE TABLE fleet_waves (
    job_id  TEXT    NOT NULL REFERENCES fleet_jobs (id),
    wave    INTEGER NOT NULL,
    total   INTEGER NOT NULL,
    ok      INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    failed  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, wave)
) STRICT, WITHOUT ROWID;

CREATE TABLE fleet_results (
    job_id      TEXT    NOT NULL REFERENCES fleet_jobs (id),
    wave        INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    tenant_uid  TEXT    NOT NULL,
    tenant_id   TEXT    NOT NULL,               -- when the job was made
    outcome     TEXT,                           -- NULL: still to be done; then ok, skipped, or the error's
    error       TEXT,
    detail      TEXT    NOT NULL DEFAULT '{}',  -- JSON
    seconds     REAL,
    finished_at TEXT,
    PRIMARY KEY (job_id, wave, position)
) STRICT, WITHOUT ROWID;

-- Few of many: the ones that are looked at.
CREATE INDEX fleet_results_failed ON fleet_results (job_id, wave, position) WHERE outcome NOT IN ('ok', 'skipped');

CREATE TRIGGER fleet_results_finished AFTER UPDATE OF outcome ON fleet_results
WHEN old.outcome IS NULL AND new.outcome IS NOT NULL BEGIN
    UPDATE fleet_waves
    SET ok = ok + (new.outcome = 'ok'),
        skipped = skipped + (new.outcome = 'skipped'),
        failed = failed + (new.outcome NOT IN ('ok', 'skipped'))
    WHERE job_id = new.job_id AND wave = new.wave;
END;
