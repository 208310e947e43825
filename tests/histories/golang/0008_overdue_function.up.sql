CREATE FUNCTION library.mark_overdue(today date DEFAULT CURRENT_DATE) RETURNS integer
LANGUAGE plpgsql
AS $function$
DECLARE
    marked integer;
BEGIN
    EXECUTE $query$
        UPDATE library.loan SET status = 'overdue'
         WHERE due_on < $1 AND returned_on IS NULL AND status = 'open';
    $query$ USING today;
    GET DIAGNOSTICS marked = ROW_COUNT;
    RAISE NOTICE '% loans are overdue; as of %', marked, today;
    RETURN marked;
END;
$function$;

SELECT library.mark_overdue('2026-06-30');
