-- The whole platform goes, and its data with it, in the reverse order of its creation. Nothing cascades: an
-- object that somebody added on top of these stops the step with the server's own message.

DROP VIEW public.v_loan_portfolio_overview;
DROP TABLE public.payment_allocation;
DROP TABLE public.payment;
DROP TABLE public.loan;
DROP TABLE public.product;
DROP TABLE public.party;
