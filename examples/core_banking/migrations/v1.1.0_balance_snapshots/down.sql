DROP FUNCTION public.take_balance_snapshots(date);
DROP TABLE public.account_balance_snapshots;
