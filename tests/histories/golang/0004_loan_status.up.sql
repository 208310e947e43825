CREATE TYPE library.loan_status AS ENUM ('open', 'returned', 'overdue');

ALTER TABLE library.loan ADD COLUMN status library.loan_status NOT NULL DEFAULT 'open';
