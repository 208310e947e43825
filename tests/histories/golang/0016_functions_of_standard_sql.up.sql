CREATE FUNCTION library.fines_of(member bigint) RETURNS numeric
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT CASE WHEN sum(f.amount) IS NULL THEN 0 ELSE sum(f.amount) END
      FROM library.fine AS f JOIN library.loan AS l USING (loan_id)
     WHERE l.member_id = fines_of.member;
END;

CREATE PROCEDURE library.forgive(member bigint, below numeric)
LANGUAGE sql
BEGIN ATOMIC
    DELETE FROM library.fine WHERE amount < forgive.below
       AND loan_id IN (SELECT loan_id FROM library.loan WHERE member_id = forgive.member);
    UPDATE library.member SET joined_at = joined_at WHERE member_id = forgive.member;
END;

CREATE FUNCTION library.year_of(date) RETURNS integer LANGUAGE sql IMMUTABLE RETURN EXTRACT(year FROM $1)::integer;
