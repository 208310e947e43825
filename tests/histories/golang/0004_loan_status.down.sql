ALTER TABLE library.loan DROP COLUMN status;
DROP TYPE library.loan_status;
