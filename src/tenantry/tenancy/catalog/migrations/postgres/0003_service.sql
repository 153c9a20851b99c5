-- API keys, recorded responses, and the service's own secrets; the comments on the columns are in SQLite's migration.
CREATE TABLE api_keys (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    hash       text COLLATE "C" NOT NULL,
    scopes     text COLLATE "C" NOT NULL,
    tenants    text COLLATE "C",
    created_at text COLLATE "C" NOT NULL,
    created_by text COLLATE "C" NOT NULL,
    expires_at text COLLATE "C",
    revoked_at text COLLATE "C"
);

CREATE TABLE idempotent_requests (
    key_id       text COLLATE "C" NOT NULL,
    key          text COLLATE "C" NOT NULL,
    request_hash text COLLATE "C" NOT NULL,
    created_at   text COLLATE "C" NOT NULL,
    status       bigint,
    headers      text COLLATE "C",
    body         bytea,
    PRIMARY KEY (key_id, key)
);

CREATE INDEX idempotent_requests_created_at ON idempotent_requests (created_at);

CREATE TABLE service_secrets (
    name  text COLLATE "C" NOT NULL PRIMARY KEY,
    value bytea NOT NULL
);
