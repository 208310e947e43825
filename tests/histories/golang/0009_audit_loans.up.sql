CREATE TABLE library.loan_audit (
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    loan_id    bigint NOT NULL,
    old_status text,
    new_status text
);

CREATE FUNCTION library.audit_loan() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO library.loan_audit (loan_id, old_status, new_status) VALUES (NEW.loan_id, OLD.status, NEW.status);
    RETURN NEW;
END $$;

CREATE TRIGGER loan_status_is_audited AFTER UPDATE OF status ON library.loan
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION library.audit_loan();

UPDATE library.loan SET status = 'returned', returned_on = due_on WHERE loan_id % 3 = 0;
