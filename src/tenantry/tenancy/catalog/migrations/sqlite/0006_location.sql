-- A back end keeps a tenant's database, and its location is the back end's own word: for SQLite, the name of a directory.
ALTER TABLE tenants RENAME COLUMN directory TO location;
ALTER TABLE tenants ADD COLUMN backend TEXT NOT NULL DEFAULT 'sqlite';
