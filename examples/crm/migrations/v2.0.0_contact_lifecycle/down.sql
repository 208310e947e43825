-- The stages of contacts go with their column; they can be derived again from the opportunities.

DROP INDEX public.idx_contacts_lifecycle_stage;
DROP INDEX public.idx_contacts_email;
ALTER TABLE public.contacts DROP COLUMN lifecycle_stage;
