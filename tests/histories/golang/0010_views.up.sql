CREATE VIEW library.open_loan AS SELECT * FROM library.loan WHERE returned_on IS NULL;

CREATE VIEW library.member_summary WITH (security_barrier) AS
SELECT m.member_id, m.email, count(l.loan_id) AS open_loans, min(l.due_on) AS next_due_on
  FROM library.member AS m
  LEFT JOIN library.open_loan AS l USING (member_id)
 GROUP BY m.member_id, m.email;

COMMENT ON VIEW library.member_summary IS 'What the desk sees; one row per member';
