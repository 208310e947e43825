DROP VIEW library.member_summary;
DROP VIEW library.open_loan;
