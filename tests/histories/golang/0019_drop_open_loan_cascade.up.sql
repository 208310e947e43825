-- The view of members goes with it, and comes back without it.
DROP VIEW library.open_loan CASCADE;

CREATE VIEW library.member_summary AS
SELECT m.member_id, count(l.loan_id) FILTER (WHERE l.returned_on IS NULL) AS open_loans
  FROM library.member AS m LEFT JOIN library.loan AS l USING (member_id)
 GROUP BY m.member_id;
