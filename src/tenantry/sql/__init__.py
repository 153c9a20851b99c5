"""What `tenantry.sql.queries` is made of: the text of SQL, parameters, rows as models, and streams."""
