ALTER TYPE library.loan_status ADD VALUE IF NOT EXISTS 'lost' AFTER 'overdue';

UPDATE library.loan SET status = 'lost' WHERE status = 'overdue' AND due_on < '2026-02-01';

ALTER TABLE library.loan ADD CONSTRAINT lost_is_not_returned CHECK (status <> 'lost' OR returned_on IS NULL);
