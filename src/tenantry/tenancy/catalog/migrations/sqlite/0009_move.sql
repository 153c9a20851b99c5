-- Whether a move of the catalog to another back end has begun or ended: at most one row. Without a row, the catalog is here.
CREATE TABLE catalog_move (
    id      INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    move_id TEXT    NOT NULL,  -- the same in both catalogs
    state   TEXT    NOT NULL,  -- arriving: this copy is not the catalog yet; left: the other catalog is the catalog
    backend TEXT    NOT NULL,  -- the name of the other catalog's back end
    place   TEXT    NOT NULL,  -- where the other catalog is, for people
    at      TEXT    NOT NULL
) STRICT;
