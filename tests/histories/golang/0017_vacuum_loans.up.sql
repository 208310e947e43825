VACUUM (ANALYZE) library.loan;
