CREATE TABLE invoices (
    number    text COLLATE "C" NOT NULL PRIMARY KEY,
    customer  text COLLATE "C" NOT NULL,
    issued_on date NOT NULL,
    total     text COLLATE "C" NOT NULL  -- a decimal; a numeric would be read as a float
);

CREATE INDEX invoices_customer ON invoices (customer, issued_on, number);
