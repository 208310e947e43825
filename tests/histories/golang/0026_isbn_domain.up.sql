CREATE DOMAIN library.isbn AS text CHECK (VALUE ~ '^[0-9-]+$');
ALTER TABLE library.book ALTER COLUMN isbn TYPE library.isbn;
ALTER TABLE library.book ADD COLUMN search tsvector GENERATED ALWAYS AS (to_tsvector('english', title)) STORED;
CREATE INDEX book_search_idx ON library.book USING gin (search);
CREATE STATISTICS library.loan_dependency (dependencies) ON copy_id, member_id FROM library.loan;
