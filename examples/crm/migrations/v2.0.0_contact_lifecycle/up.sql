-- What a contact is to us: a lead until something was sold to the organization, then a customer. And one contact for
-- each address in a workspace, whatever its case.
--
-- The back-fill has to see the rows of all workspaces: row-level security binds the owner, too, unless it is lifted. That
-- is done for this transaction only; the statements hold off everybody else until it commits.

ALTER TABLE public.contacts NO FORCE ROW LEVEL SECURITY;
ALTER TABLE public.opportunities NO FORCE ROW LEVEL SECURITY;

ALTER TABLE public.contacts ADD COLUMN lifecycle_stage varchar(20) NOT NULL DEFAULT 'lead';
ALTER TABLE public.contacts
    ADD CONSTRAINT contacts_lifecycle_stage_known CHECK (lifecycle_stage IN ('lead', 'customer', 'former'));

UPDATE public.contacts AS c
   SET lifecycle_stage = 'customer'
 WHERE EXISTS (SELECT FROM public.opportunities AS o
                WHERE o.workspace_id = c.workspace_id
                  AND o.organization_id = c.organization_id
                  AND o.stage = 'won');

CREATE UNIQUE INDEX idx_contacts_email ON public.contacts (workspace_id, lower(email));
CREATE INDEX idx_contacts_lifecycle_stage ON public.contacts (workspace_id, lifecycle_stage);

ALTER TABLE public.contacts FORCE ROW LEVEL SECURITY;
ALTER TABLE public.opportunities FORCE ROW LEVEL SECURITY;
