DROP STATISTICS library.loan_dependency;
ALTER TABLE library.book DROP COLUMN search;
ALTER TABLE library.book ALTER COLUMN isbn TYPE text;
DROP DOMAIN library.isbn;
