CREATE TABLE invoices (
    number    TEXT NOT NULL PRIMARY KEY,
    customer  TEXT NOT NULL,
    issued_on TEXT NOT NULL,  -- YYYY-MM-DD
    total     TEXT NOT NULL   -- a decimal; REAL would round it
) STRICT, WITHOUT ROWID;

CREATE INDEX invoices_customer ON invoices (customer, issued_on, number);
