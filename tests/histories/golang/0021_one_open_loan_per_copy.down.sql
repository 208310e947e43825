ALTER TABLE library.loan DROP CONSTRAINT loan_copy_open_key;
