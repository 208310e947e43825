DROP INDEX CONCURRENTLY library.loan_due_on_idx;
