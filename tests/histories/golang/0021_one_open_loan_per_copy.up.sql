CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS loan_copy_open_key ON library.loan (copy_id, due_on);
ALTER TABLE library.loan ADD CONSTRAINT loan_copy_open_key UNIQUE USING INDEX loan_copy_open_key;
