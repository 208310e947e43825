ALTER TABLE library.loan DROP CONSTRAINT lost_is_not_returned;
UPDATE library.loan SET status = 'overdue' WHERE status = 'lost';

-- A value cannot be taken out of a type, so the type is made anew; what depends on the column makes way.
DROP TRIGGER loan_status_is_audited ON library.loan;
DROP VIEW library.member_summary;
DROP VIEW library.open_loan;
ALTER TYPE library.loan_status RENAME TO loan_status_old;
CREATE TYPE library.loan_status AS ENUM ('open', 'returned', 'overdue');
ALTER TABLE library.loan
    ALTER COLUMN status DROP DEFAULT,
    ALTER COLUMN status TYPE library.loan_status USING status::text::library.loan_status,
    ALTER COLUMN status SET DEFAULT 'open';
DROP TYPE library.loan_status_old;
CREATE VIEW library.open_loan AS SELECT * FROM library.loan WHERE returned_on IS NULL;
CREATE VIEW library.member_summary WITH (security_barrier) AS
SELECT m.member_id, m.email, count(l.loan_id) AS open_loans, min(l.due_on) AS next_due_on
  FROM library.member AS m
  LEFT JOIN library.open_loan AS l USING (member_id)
 GROUP BY m.member_id, m.email;
COMMENT ON VIEW library.member_summary IS 'What the desk sees; one row per member';
CREATE TRIGGER loan_status_is_audited AFTER UPDATE OF status ON library.loan
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION library.audit_loan();
