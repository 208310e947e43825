-- The books go. The partitions go with their table.

DROP FUNCTION public.ensure_entries_partitions(date, date);
DROP TABLE public.entries;
DROP TABLE public.transactions;
DROP TABLE public.accounts;
