-- The name of the back end that stores the tenant's database. SQLite's catalog also has the location under an older name.
ALTER TABLE tenants ADD COLUMN backend text COLLATE "C" NOT NULL DEFAULT 'sqlite';
