-- Of a deleted tenant: the reason of the state that undelete leads back to.
ALTER TABLE tenants ADD COLUMN reason_before text COLLATE "C";
