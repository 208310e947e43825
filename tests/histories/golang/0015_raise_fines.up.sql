DO $$
DECLARE
    late record;
BEGIN
    FOR late IN SELECT loan_id, due_on FROM library.loan WHERE status IN ('overdue', 'lost') ORDER BY loan_id LOOP
        INSERT INTO library.fine (loan_id, raised_on, amount)
        VALUES (late.loan_id, late.due_on + 1, CASE WHEN late.loan_id % 2 = 0 THEN 2.50 ELSE 5 END);
    END LOOP;
END $$;
