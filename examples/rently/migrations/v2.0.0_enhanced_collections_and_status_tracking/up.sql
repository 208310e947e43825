-- Collections events and an audit trail of loan statuses, the materialized view that the dashboards read, and
-- monitoring from inside the database.
--
-- The foreign keys to loan hold off writers of loan (not readers) until the step commits. That is wanted: no
-- status can change between the back-fill of the history and the trigger that keeps it from then on.

CREATE TABLE public.collections_event (
    id                uuid        NOT NULL DEFAULT gen_random_uuid(),
    loan_id           uuid        NOT NULL,
    event_type        varchar(50) NOT NULL,
    event_at          timestamptz NOT NULL DEFAULT now(),
    dpd_snapshot      integer,
    event_details     jsonb,
    resolution_status varchar(20),
    created_by        uuid,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT collections_event_pkey PRIMARY KEY (id),
    CONSTRAINT collections_event_loan_id_fkey FOREIGN KEY (loan_id) REFERENCES public.loan (id),
    CONSTRAINT collections_event_dpd_not_negative CHECK (dpd_snapshot >= 0)
);
COMMENT ON TABLE public.collections_event IS 'What was done to collect a loan: reminder, call, promise, legal step.';
COMMENT ON COLUMN public.collections_event.dpd_snapshot IS 'Days past due when it happened; NULL when nobody looked.';
COMMENT ON COLUMN public.collections_event.resolution_status IS
    'How it ended: resolved, or the word of the collections team; NULL while it is open.';

CREATE INDEX idx_collections_event_loan_id ON public.collections_event (loan_id);
CREATE INDEX idx_collections_event_type_date ON public.collections_event (event_type, event_at DESC);
CREATE INDEX idx_collections_event_dpd ON public.collections_event (dpd_snapshot) WHERE dpd_snapshot > 0;

CREATE TABLE public.loan_status_history (
    id                uuid         NOT NULL DEFAULT gen_random_uuid(),
    loan_id           uuid         NOT NULL,
    status_type       varchar(50)  NOT NULL,
    status_value      varchar(100) NOT NULL,
    effective_from    timestamptz  NOT NULL DEFAULT now(),
    effective_through timestamptz,
    reason            text,
    created_by        uuid,
    created_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT loan_status_history_pkey PRIMARY KEY (id),
    CONSTRAINT loan_status_history_loan_id_fkey FOREIGN KEY (loan_id) REFERENCES public.loan (id),
    CONSTRAINT loan_status_history_period_ordered CHECK (effective_through >= effective_from)
);
COMMENT ON TABLE public.loan_status_history IS
    'Audit trail: for each loan and type of status, which value held from when to when.';
COMMENT ON COLUMN public.loan_status_history.status_type IS
    'loan_status follows loan.status by trigger; others, such as risk_level, are written by the application.';
COMMENT ON COLUMN public.loan_status_history.effective_through IS 'NULL for the value that holds now.';

-- Every loan gets its first entry. Indexes are built afterwards, in one pass each.
INSERT INTO public.loan_status_history (loan_id, status_type, status_value, effective_from, reason)
SELECT l.id, 'loan_status', l.status, COALESCE(l.created_at, l.start_date), 'first entry, from the loan itself'
  FROM public.loan AS l;

CREATE INDEX idx_loan_status_history_loan_id ON public.loan_status_history (loan_id);
CREATE INDEX idx_loan_status_history_current
    ON public.loan_status_history (loan_id, status_type, effective_from DESC)
    WHERE effective_through IS NULL;
-- At most one value of a type holds at a time. The materialized view relies on it: with two, a loan would
-- appear twice and its unique index would refuse the refresh.
CREATE UNIQUE INDEX idx_loan_status_history_one_current
    ON public.loan_status_history (loan_id, status_type)
    WHERE effective_through IS NULL;

-- The trail is written with its owner's rights: whoever may change a loan needs no rights on the trail, and cannot
-- get around it.
-- Two changes within one transaction share a timestamp, and created_at may lie ahead of this server's clock:
-- GREATEST keeps every period in order.
CREATE FUNCTION public.record_loan_status() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        UPDATE public.loan_status_history AS h
           SET effective_through = GREATEST(now(), h.effective_from)
         WHERE h.loan_id = NEW.id
           AND h.status_type = 'loan_status'
           AND h.effective_through IS NULL;
    END IF;
    INSERT INTO public.loan_status_history (loan_id, status_type, status_value, effective_from)
    VALUES (NEW.id, 'loan_status', NEW.status, CASE TG_OP WHEN 'INSERT' THEN NEW.created_at ELSE now() END);
    RETURN NULL;
END
$function$;
REVOKE EXECUTE ON FUNCTION public.record_loan_status() FROM PUBLIC;

CREATE TRIGGER loan_status_recorded_on_insert
    AFTER INSERT ON public.loan
    FOR EACH ROW EXECUTE FUNCTION public.record_loan_status();
CREATE TRIGGER loan_status_recorded_on_update
    AFTER UPDATE OF status ON public.loan
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION public.record_loan_status();

-- Active loans as the dashboards read them. The days past due are those of the newest event that recorded
-- them, so a loan that was paid up leaves its bucket.
CREATE MATERIALIZED VIEW public.mv_current_loan_status AS
WITH newest_dpd AS (
    SELECT DISTINCT ON (e.loan_id) e.loan_id, e.dpd_snapshot
      FROM public.collections_event AS e
     WHERE e.dpd_snapshot IS NOT NULL
     ORDER BY e.loan_id, e.event_at DESC, e.created_at DESC, e.id
)
SELECT l.id AS loan_id,
       l.loan_number,
       l.status AS loan_status,
       l.principal_amount,
       l.currency_code,
       d.category AS product_category,
       b.display_name AS borrower_name,
       COALESCE(h.status_value, 'normal') AS current_risk_level,
       COALESCE(n.dpd_snapshot, 0) AS current_dpd,
       CASE
           WHEN COALESCE(n.dpd_snapshot, 0) = 0 THEN 'Current'
           WHEN n.dpd_snapshot <= 30 THEN '1-30 DPD'
           WHEN n.dpd_snapshot <= 60 THEN '31-60 DPD'
           WHEN n.dpd_snapshot <= 90 THEN '61-90 DPD'
           ELSE '90+ DPD'
       END AS dpd_bucket,
       now() AS last_updated
  FROM public.loan AS l
  JOIN public.product AS d ON d.id = l.product_id
  JOIN public.party AS b ON b.id = l.borrower_party_id
  LEFT JOIN public.loan_status_history AS h
         ON h.loan_id = l.id AND h.status_type = 'risk_level' AND h.effective_through IS NULL
  LEFT JOIN newest_dpd AS n ON n.loan_id = l.id
 WHERE l.status = 'active';
COMMENT ON MATERIALIZED VIEW public.mv_current_loan_status IS
    'Active loans with risk level and days past due, as of last_updated; refresh_materialized_views() renews it.';

-- REFRESH ... CONCURRENTLY needs a unique index over all rows.
CREATE UNIQUE INDEX idx_mv_current_loan_status_loan_id ON public.mv_current_loan_status (loan_id);
CREATE INDEX idx_mv_current_loan_status_dpd_bucket ON public.mv_current_loan_status (dpd_bucket);
CREATE INDEX idx_mv_current_loan_status_risk ON public.mv_current_loan_status (current_risk_level);

-- For a scheduler, as the owner of the view. Readers are not held up, except by the very first filling of a view
-- that was restored without data: CONCURRENTLY cannot do that.
CREATE FUNCTION public.refresh_materialized_views()
    RETURNS TABLE (materialized_view text, was_concurrent boolean, duration_ms numeric)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    started_at timestamptz := clock_timestamp();
BEGIN
    materialized_view := 'public.mv_current_loan_status';
    SELECT c.relispopulated
      INTO STRICT was_concurrent
      FROM pg_class AS c
     WHERE c.oid = 'public.mv_current_loan_status'::regclass;
    IF was_concurrent THEN
        REFRESH MATERIALIZED VIEW CONCURRENTLY public.mv_current_loan_status;
    ELSE
        REFRESH MATERIALIZED VIEW public.mv_current_loan_status;
    END IF;
    duration_ms := round(extract(epoch FROM clock_timestamp() - started_at)::numeric * 1000, 3);
    RETURN NEXT;
END
$function$;
COMMENT ON FUNCTION public.refresh_materialized_views() IS
    'Refreshes the materialized views and returns, for each, whether readers could go on and how long it took.';

CREATE VIEW public.v_collections_performance AS
SELECT e.event_type,
       count(*) AS events,
       count(DISTINCT e.loan_id) AS loans,
       count(*) FILTER (WHERE e.resolution_status = 'resolved') AS resolved_events,
       round(100.0 * count(*) FILTER (WHERE e.resolution_status = 'resolved') / count(*), 2) AS resolution_rate_pct,
       round(avg(e.dpd_snapshot), 1) AS average_dpd,
       max(e.dpd_snapshot) AS highest_dpd,
       min(e.event_at) AS first_event_at,
       max(e.event_at) AS last_event_at
  FROM public.collections_event AS e
 GROUP BY e.event_type;
COMMENT ON VIEW public.v_collections_performance IS 'How often each kind of collections event led to a resolution.';

-- pg_stat_statements is optional: a view that named it could not be created without it. So it is looked up, in
-- whichever schema it lives, when the function runs. No rows mean "not measured": the extension is not
-- installed, or its library is not loaded, or it is too old to have these columns.
CREATE FUNCTION public.statement_statistics()
    RETURNS TABLE (query text, calls bigint, total_exec_time_ms numeric, mean_exec_time_ms numeric)
    LANGUAGE plpgsql
    STABLE
    SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    extension_schema text;
BEGIN
    SELECT n.nspname
      INTO extension_schema
      FROM pg_extension AS x
      JOIN pg_namespace AS n ON n.oid = x.extnamespace
     WHERE x.extname = 'pg_stat_statements';
    IF extension_schema IS NULL
       OR to_regclass(format('%I.pg_stat_statements', extension_schema)) IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT s.query, s.calls, s.total_exec_time::numeric, s.mean_exec_time::numeric'
        '  FROM %I.pg_stat_statements AS s'
        ' WHERE s.dbid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())',
        extension_schema);
EXCEPTION
    WHEN object_not_in_prerequisite_state OR undefined_column OR insufficient_privilege THEN
        RETURN;
END
$function$;
COMMENT ON FUNCTION public.statement_statistics() IS
    'This database''s rows of pg_stat_statements; none where the extension does not answer.';

-- One row. Connections are counted over the whole server, because their limit is the server's; everything else
-- is about this database, under whatever name it serves. Roles outside pg_monitor see the states of their own
-- sessions only.
CREATE VIEW public.v_system_health AS
SELECT 'Database Performance' AS category,
       pg_database_size(current_database()) AS db_size_bytes,
       pg_size_pretty(pg_database_size(current_database())) AS db_size_formatted,
       (SELECT count(*) FROM pg_stat_activity AS a
         WHERE a.backend_type = 'client backend' AND a.state = 'active') AS active_connections,
       (SELECT count(*) FROM pg_stat_activity AS a
         WHERE a.backend_type = 'client backend' AND a.state = 'idle') AS idle_connections,
       (SELECT round(avg(s.mean_exec_time_ms), 2) FROM public.statement_statistics() AS s
         WHERE s.calls > 10) AS avg_query_time_ms,
       (SELECT round(100.0 * d.blks_hit / NULLIF(d.blks_hit + d.blks_read, 0), 2) FROM pg_stat_database AS d
         WHERE d.datname = current_database()) AS cache_hit_ratio_pct,
       -- epoch, not minutes: the minutes of two hours are 0
       (SELECT round(extract(epoch FROM now() - min(m.last_updated))::numeric / 60, 2)
          FROM public.mv_current_loan_status AS m) AS oldest_mv_age_minutes;
COMMENT ON VIEW public.v_system_health IS
    'Health of this database in one row; NULL is what could not be measured, never zero.';

CREATE VIEW public.v_performance_dashboard AS
SELECT 'Top Queries by Total Time' AS section,
       (SELECT array_agg(format('%s... (%s calls, %s ms avg, %s %% of the time)', left(q.query, 50), q.calls,
                                round(q.mean_exec_time_ms, 2), q.time_percentage)
                         ORDER BY q.total_exec_time_ms DESC)
          FROM (SELECT s.*, round(100 * s.total_exec_time_ms / NULLIF(sum(s.total_exec_time_ms) OVER (), 0), 2)
                            AS time_percentage
                  FROM public.statement_statistics() AS s
                 WHERE s.calls > 10
                 ORDER BY s.total_exec_time_ms DESC
                 LIMIT 10) AS q) AS details
UNION ALL
SELECT 'Connection Status',
       (SELECT array_agg(format('%s: %s connections, %s s in this state on average', c.state, c.connections,
                                c.average_s)
                         ORDER BY c.connections DESC, c.state)
          FROM (SELECT COALESCE(a.state, 'unknown') AS state,
                       count(*) AS connections,
                       round(avg(extract(epoch FROM now() - a.state_change))::numeric, 1) AS average_s
                  FROM pg_stat_activity AS a
                 WHERE a.backend_type = 'client backend'
                   AND a.application_name <> 'psql'
                 GROUP BY 1) AS c)
UNION ALL
SELECT 'Table Activity',
       (SELECT array_agg(format('%I.%I (%s modifications, %s %% index usage)', t.schemaname, t.relname,
                                t.modifications, COALESCE(t.index_usage_pct, 0))
                         ORDER BY t.modifications DESC, t.relname)
          FROM (SELECT s.schemaname,
                       s.relname,
                       s.n_tup_ins + s.n_tup_upd + s.n_tup_del AS modifications,
                       round(100.0 * s.idx_scan / NULLIF(s.seq_scan + s.idx_scan, 0), 2) AS index_usage_pct
                  FROM pg_stat_user_tables AS s
                 ORDER BY modifications DESC, s.relname
                 LIMIT 10) AS t);
COMMENT ON VIEW public.v_performance_dashboard IS
    'Slowest statements, connections and busiest tables, as text; NULL where nothing was measured.';

-- One row for each metric beyond a threshold, the threshold it passed beside it, or a single row OK. A metric
-- that could not be measured raises no alert.
CREATE FUNCTION public.check_system_alerts()
    RETURNS TABLE (
        alert_type text,
        alert_level text,
        alert_message text,
        metric_value numeric,
        threshold_value numeric,
        alert_time timestamptz
    )
    LANGUAGE sql
    STABLE
    SET search_path = pg_catalog, pg_temp
AS $function$
    WITH metric (alert_type, label, unit, value, warning, critical, sign) AS (
        -- sign 1: too high is bad; sign -1: too low is bad
        SELECT m.*
          FROM public.v_system_health AS h
         CROSS JOIN LATERAL (VALUES
               ('Connection Pool', 'Active connections', '', h.active_connections::numeric, 60, 80, 1),
               ('Cache Performance', 'Cache hit ratio', ' %', h.cache_hit_ratio_pct, 95, 85, -1),
               ('Materialized Views', 'Oldest materialized view', ' minutes', h.oldest_mv_age_minutes, 5, 10, 1),
               ('Query Performance', 'Average query time', ' ms', h.avg_query_time_ms, 3000, 5000, 1)
         ) AS m
    ),
    alert AS (
        SELECT m.alert_type,
               CASE WHEN m.value * m.sign > m.critical * m.sign THEN 'CRITICAL' ELSE 'WARNING' END AS alert_level,
               m.label || ': ' || m.value || m.unit AS alert_message,
               m.value AS metric_value,
               CASE WHEN m.value * m.sign > m.critical * m.sign THEN m.critical ELSE m.warning END::numeric
                   AS threshold_value
          FROM metric AS m
         WHERE m.value * m.sign > m.warning * m.sign
    )
    SELECT a.alert_type, a.alert_level, a.alert_message, a.metric_value, a.threshold_value, now()
      FROM alert AS a
     UNION ALL
    SELECT 'System', 'OK', 'No metric is beyond its threshold', NULL, NULL, now()
     WHERE NOT EXISTS (SELECT FROM alert)
     ORDER BY 2, 1
$function$;
COMMENT ON FUNCTION public.check_system_alerts() IS
    'Alerts of level WARNING or CRITICAL from v_system_health, or one row OK.';
