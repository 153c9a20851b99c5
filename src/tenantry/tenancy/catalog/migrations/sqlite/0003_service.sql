-- What the admin API keeps: who may call it, what was answered, and its own secret.
CREATE TABLE api_keys (
    id         TEXT NOT NULL PRIMARY KEY,
    name       TEXT NOT NULL,   -- for people
    hash       TEXT NOT NULL,   -- SHA-256 of the secret, which has 256 bits and so needs no salt
    scopes     TEXT NOT NULL,   -- JSON
    tenants    TEXT,            -- JSON: only these ids; NULL: all
    created_at TEXT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at TEXT,
    revoked_at TEXT
) STRICT, WITHOUT ROWID;

-- Of a request with an Idempotency-Key: what was answered, so that the same request again gets the same answer.
CREATE TABLE idempotent_requests (
    key_id       TEXT    NOT NULL,  -- of the API key: two callers may choose the same
    key          TEXT    NOT NULL,
    request_hash TEXT    NOT NULL,  -- SHA-256 of method, path and body
    created_at   TEXT    NOT NULL,
    status       INTEGER,           -- NULL while the request is under way
    headers      TEXT,              -- JSON
    body         BLOB,
    PRIMARY KEY (key_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotent_requests_created_at ON idempotent_requests (created_at);

CREATE TABLE service_secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
