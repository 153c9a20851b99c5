CREATE TABLE invoices (
    id TEXT NOT NULL PRIMARY KEY,
    customer TEXT NOT NULL,
    issued_on TEXT NOT NULL,
    total_cents INTEGER NOT NULL
) STRICT;

CREATE INDEX invoices_customer ON invoices (customer, issued_on);
