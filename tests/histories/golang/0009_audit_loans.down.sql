DROP TRIGGER loan_status_is_audited ON library.loan;
UPDATE library.loan SET status = 'open', returned_on = NULL WHERE loan_id % 3 = 0;
DROP FUNCTION library.audit_loan();
DROP TABLE library.loan_audit;
