CREATE TABLE library.fine (
    loan_id   bigint NOT NULL REFERENCES library.loan,
    raised_on date NOT NULL,
    amount    numeric(8, 2) NOT NULL CHECK (amount > 0)
) PARTITION BY RANGE (raised_on);

CREATE TABLE library.fine_2025 PARTITION OF library.fine FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE library.fine_2026 PARTITION OF library.fine FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');

CREATE INDEX fine_loan_idx ON library.fine (loan_id);
