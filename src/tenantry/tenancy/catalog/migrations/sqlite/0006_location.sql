-- A back end keeps a tenant's database, and its location is the back end's own word: for SQLite, the name of a directory.
ALTER TABLE tenants RENAME COLUMN directory TO location;
ALTER TABLE tenants ADD COLUMN backend TEXT NOT NULL DEFAULT 'sqlite';
-- Processes of the version before read this column. While one of them still runs, it must see which tenants are suspended.
ALTER TABLE tenants ADD COLUMN directory TEXT GENERATED ALWAYS AS (location) VIRTUAL;
