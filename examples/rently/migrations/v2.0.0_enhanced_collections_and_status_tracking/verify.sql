-- The step did what it promised. This runs while writers of loan are held off, so it asks about the new objects only;
-- the suites pre and post ask about the money, before and after.

DO $verify$
DECLARE
    missing text;
    found bigint;
BEGIN
    SELECT string_agg(wanted.name, ', ' ORDER BY 1)
      INTO missing
      FROM (VALUES
               ('collections_event', 'r'), ('loan_status_history', 'r'), ('mv_current_loan_status', 'm'),
               ('v_collections_performance', 'v'), ('v_system_health', 'v'), ('v_performance_dashboard', 'v')
           ) AS wanted (name, kind)
     WHERE NOT EXISTS (
               SELECT FROM pg_catalog.pg_class AS c
                WHERE c.oid = pg_catalog.to_regclass('public.' || wanted.name)
                  AND c.relkind::text = wanted.kind
                  AND c.relispopulated);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'version 2 lacks the relations %', missing;
    END IF;

    SELECT string_agg(wanted.name, ', ' ORDER BY 1)
      INTO missing
      FROM (VALUES
               ('idx_collections_event_loan_id'), ('idx_collections_event_type_date'), ('idx_collections_event_dpd'),
               ('idx_loan_status_history_loan_id'), ('idx_loan_status_history_current'),
               ('idx_loan_status_history_one_current'), ('idx_mv_current_loan_status_loan_id'),
               ('idx_mv_current_loan_status_dpd_bucket'), ('idx_mv_current_loan_status_risk')
           ) AS wanted (name)
     WHERE NOT EXISTS (
               SELECT FROM pg_catalog.pg_index AS i
                WHERE i.indexrelid = pg_catalog.to_regclass('public.' || wanted.name)
                  AND i.indisvalid
                  AND i.indisready);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'version 2 lacks the valid indexes %', missing;
    END IF;

    SELECT count(*)
      INTO found
      FROM public.loan AS l
      LEFT JOIN public.loan_status_history AS h
             ON h.loan_id = l.id AND h.status_type = 'loan_status' AND h.effective_through IS NULL
     WHERE h.status_value IS DISTINCT FROM l.status;
    IF found > 0 THEN
        RAISE EXCEPTION '% loans have a status that the history does not have', found;
    END IF;

    -- Not row for row: a loan may have become active since the view was filled.
    IF EXISTS (SELECT FROM public.loan AS l WHERE l.status = 'active')
       AND NOT EXISTS (SELECT FROM public.mv_current_loan_status) THEN
        RAISE EXCEPTION 'mv_current_loan_status is empty although there are active loans';
    END IF;

    -- The functions answer, not only exist.
    SELECT count(*) INTO found FROM public.check_system_alerts();
    IF found = 0 THEN
        RAISE EXCEPTION 'check_system_alerts() returned no row, not even OK';
    END IF;
    SELECT count(*) INTO found FROM public.v_performance_dashboard;
    IF found <> 3 THEN
        RAISE EXCEPTION 'v_performance_dashboard has % sections instead of 3', found;
    END IF;
END
$verify$;
