-- Everything that the step up created, in the reverse order, and nothing else. Nothing cascades: an object that
-- somebody built on top of these stops the step with the server's own message instead of vanishing.
--
-- The collections events and the status history written since the step up go with their tables. Whoever undoes a
-- deployment is told about them before this runs.

DROP FUNCTION public.check_system_alerts();
DROP VIEW public.v_performance_dashboard;
DROP VIEW public.v_system_health;
DROP FUNCTION public.statement_statistics();
DROP VIEW public.v_collections_performance;
DROP FUNCTION public.refresh_materialized_views();
DROP MATERIALIZED VIEW public.mv_current_loan_status;
DROP TRIGGER loan_status_recorded_on_update ON public.loan;
DROP TRIGGER loan_status_recorded_on_insert ON public.loan;
DROP FUNCTION public.record_loan_status();
-- holdfast: allow down-drops-data: the history begins anew with the statuses of the day it is filled again
DROP TABLE public.loan_status_history;
DROP TABLE public.collections_event;
