-- When a process last looked at the clock, and since when the clock has not leapt: one row.
CREATE TABLE clock (
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    seen_at      TEXT    NOT NULL,
    steady_since TEXT                -- NULL: it never has
) STRICT;

-- Of a directory from before, the last known time is that of the audit.
INSERT INTO clock (id, seen_at) SELECT 1, at FROM admin_audit ORDER BY seq DESC LIMIT 1;
