-- Loans, each with a receivable account of its own, and the aging report that collections works from.

CREATE TABLE public.loans (
    id               bigint        GENERATED ALWAYS AS IDENTITY,
    loan_number      varchar(20)   NOT NULL,
    account_id       bigint        NOT NULL,
    principal_amount numeric(18,2) NOT NULL,
    disbursed_on     date          NOT NULL,
    oldest_unpaid_on date,
    status           varchar(12)   NOT NULL DEFAULT 'active',
    CONSTRAINT loans_pkey PRIMARY KEY (id),
    CONSTRAINT loans_loan_number_key UNIQUE (loan_number),
    CONSTRAINT loans_account_id_key UNIQUE (account_id),
    CONSTRAINT loans_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts (id),
    CONSTRAINT loans_principal_positive CHECK (principal_amount > 0),
    CONSTRAINT loans_status_known CHECK (status IN ('active', 'closed', 'written_off'))
);
COMMENT ON COLUMN public.loans.oldest_unpaid_on IS 'When the oldest instalment fell due that is not paid; NULL when none is.';

CREATE MATERIALIZED VIEW public.loan_aging_report AS
SELECT l.id AS loan_id,
       l.loan_number,
       a.current_balance AS outstanding,
       COALESCE(current_date - l.oldest_unpaid_on, 0) AS days_past_due,
       CASE
           WHEN l.oldest_unpaid_on IS NULL THEN 'current'
           WHEN current_date - l.oldest_unpaid_on <= 30 THEN '1-30'
           WHEN current_date - l.oldest_unpaid_on <= 60 THEN '31-60'
           WHEN current_date - l.oldest_unpaid_on <= 90 THEN '61-90'
           ELSE '90+'
       END AS bucket,
       now() AS refreshed_at
  FROM public.loans AS l
  JOIN public.accounts AS a ON a.id = l.account_id
 WHERE l.status = 'active';
COMMENT ON MATERIALIZED VIEW public.loan_aging_report IS 'Active loans by days past due; refreshed every hour.';

-- REFRESH ... CONCURRENTLY needs a unique index over all rows.
CREATE UNIQUE INDEX idx_loan_aging_report_loan_id ON public.loan_aging_report (loan_id);
CREATE INDEX idx_loan_aging_report_bucket ON public.loan_aging_report (bucket);
