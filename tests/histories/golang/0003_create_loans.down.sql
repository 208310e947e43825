DROP TABLE library.loan, library.copy;
