-- What each account held at the end of each day, so that a statement of last year reads one row and not a million.

CREATE TABLE public.account_balance_snapshots (
    account_id    bigint        NOT NULL,
    snapshot_date date          NOT NULL,
    balance       numeric(18,2) NOT NULL,
    entry_count   bigint        NOT NULL,
    CONSTRAINT account_balance_snapshots_pkey PRIMARY KEY (account_id, snapshot_date),
    CONSTRAINT account_balance_snapshots_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts (id),
    CONSTRAINT account_balance_snapshots_count_not_negative CHECK (entry_count >= 0)
);
CREATE INDEX idx_account_balance_snapshots_date ON public.account_balance_snapshots (snapshot_date);

-- For a scheduler, at two in the morning, for the day before. Again for the same day it changes nothing that is right.
CREATE FUNCTION public.take_balance_snapshots(for_date date) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
AS $function$
DECLARE
    taken bigint;
BEGIN
    INSERT INTO public.account_balance_snapshots AS s (account_id, snapshot_date, balance, entry_count)
    SELECT a.id, for_date, COALESCE(sum(COALESCE(e.debit, 0) - COALESCE(e.credit, 0)), 0), count(e.id)
      FROM public.accounts AS a
      LEFT JOIN public.entries AS e ON e.account_id = a.id AND e.created_at < (for_date + 1)::timestamptz
     GROUP BY a.id
        ON CONFLICT (account_id, snapshot_date) DO UPDATE
       SET balance = EXCLUDED.balance, entry_count = EXCLUDED.entry_count
     WHERE (s.balance, s.entry_count) IS DISTINCT FROM (EXCLUDED.balance, EXCLUDED.entry_count);
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN taken;
END
$function$;
COMMENT ON FUNCTION public.take_balance_snapshots(date) IS
    'Writes the balance of each account at the end of a day (UTC), and returns how many were new or different.';
