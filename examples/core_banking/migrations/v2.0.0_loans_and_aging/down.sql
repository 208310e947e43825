-- Receivable accounts of loans stay: they are part of the books.

DROP MATERIALIZED VIEW public.loan_aging_report;
DROP TABLE public.loans;
