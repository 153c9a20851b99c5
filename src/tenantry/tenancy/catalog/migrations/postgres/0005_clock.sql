-- The last known time, and the time since when the clock has not leapt: one row.
CREATE TABLE clock (
    id           bigint NOT NULL PRIMARY KEY CHECK (id = 1),
    seen_at      text COLLATE "C" NOT NULL,
    steady_since text COLLATE "C"
);
