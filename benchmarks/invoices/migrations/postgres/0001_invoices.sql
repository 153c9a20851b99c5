CREATE TABLE invoices (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    customer text COLLATE "C" NOT NULL,
    issued_on date NOT NULL,
    total_cents bigint NOT NULL
);

CREATE INDEX invoices_customer ON invoices (customer, issued_on);
