CREATE INDEX CONCURRENTLY loan_due_on_idx ON library.loan (due_on) WHERE returned_on IS NULL;
