-- The index goes; the deleted allocations do not come back this way.

DROP INDEX public.idx_payment_allocation_one_per_payment;
