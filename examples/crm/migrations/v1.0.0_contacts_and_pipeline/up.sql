-- Customers of several workspaces in one database: organizations, contacts, products, opportunities, interactions.
--
-- Two things keep workspaces apart. Row-level security lets a session see and change the rows of the one workspace
-- that it names in crm.workspace_id, and none when it names none; it binds the owner as well. And every reference
-- carries the workspace with it, so that no row can point into another one.

CREATE FUNCTION public.current_workspace() RETURNS uuid
    LANGUAGE sql
    STABLE
    SET search_path = pg_catalog, pg_temp
AS $function$ SELECT NULLIF(current_setting('crm.workspace_id', true), '')::uuid $function$;
COMMENT ON FUNCTION public.current_workspace() IS
    'The workspace of the session, from the setting crm.workspace_id; NULL, which no row has, without it.';

CREATE TABLE public.organizations (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    workspace_id uuid         NOT NULL,
    parent_id    uuid,
    name         varchar(200) NOT NULL,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT organizations_pkey PRIMARY KEY (id),
    CONSTRAINT organizations_workspace_key UNIQUE (workspace_id, id),
    CONSTRAINT organizations_parent_fkey FOREIGN KEY (workspace_id, parent_id)
        REFERENCES public.organizations (workspace_id, id),
    CONSTRAINT organizations_name_not_blank CHECK (btrim(name) <> '')
);
CREATE INDEX idx_organizations_parent ON public.organizations (workspace_id, parent_id);

CREATE TABLE public.contacts (
    id              uuid         NOT NULL DEFAULT gen_random_uuid(),
    workspace_id    uuid         NOT NULL,
    organization_id uuid,
    display_name    varchar(200) NOT NULL,
    email           varchar(254),
    created_at      timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT contacts_pkey PRIMARY KEY (id),
    CONSTRAINT contacts_workspace_key UNIQUE (workspace_id, id),
    CONSTRAINT contacts_organization_fkey FOREIGN KEY (workspace_id, organization_id)
        REFERENCES public.organizations (workspace_id, id)
);
CREATE INDEX idx_contacts_organization ON public.contacts (workspace_id, organization_id);

CREATE TABLE public.products (
    id            uuid          NOT NULL DEFAULT gen_random_uuid(),
    workspace_id  uuid          NOT NULL,
    code          varchar(30)   NOT NULL,
    name          varchar(200)  NOT NULL,
    list_price    numeric(12,2) NOT NULL,
    CONSTRAINT products_pkey PRIMARY KEY (id),
    CONSTRAINT products_workspace_key UNIQUE (workspace_id, id),
    CONSTRAINT products_code_key UNIQUE (workspace_id, code),
    CONSTRAINT products_list_price_not_negative CHECK (list_price >= 0)
);

CREATE TABLE public.opportunities (
    id              uuid          NOT NULL DEFAULT gen_random_uuid(),
    workspace_id    uuid          NOT NULL,
    organization_id uuid          NOT NULL,
    contact_id      uuid,
    product_id      uuid          NOT NULL,
    name            varchar(200)  NOT NULL,
    stage           varchar(20)   NOT NULL DEFAULT 'lead',
    probability     smallint      NOT NULL DEFAULT 10,
    amount          numeric(14,2) NOT NULL,
    created_at      timestamptz   NOT NULL DEFAULT now(),
    closed_at       timestamptz,
    CONSTRAINT opportunities_pkey PRIMARY KEY (id),
    CONSTRAINT opportunities_workspace_key UNIQUE (workspace_id, id),
    CONSTRAINT opportunities_organization_fkey FOREIGN KEY (workspace_id, organization_id)
        REFERENCES public.organizations (workspace_id, id),
    CONSTRAINT opportunities_contact_fkey FOREIGN KEY (workspace_id, contact_id)
        REFERENCES public.contacts (workspace_id, id),
    CONSTRAINT opportunities_product_fkey FOREIGN KEY (workspace_id, product_id)
        REFERENCES public.products (workspace_id, id),
    CONSTRAINT opportunities_stage_known CHECK (stage IN ('lead', 'qualified', 'proposal', 'won', 'lost')),
    CONSTRAINT opportunities_probability_is_percent CHECK (probability BETWEEN 0 AND 100),
    CONSTRAINT opportunities_amount_not_negative CHECK (amount >= 0)
);
CREATE INDEX idx_opportunities_organization ON public.opportunities (workspace_id, organization_id);
CREATE INDEX idx_opportunities_contact ON public.opportunities (workspace_id, contact_id);
CREATE INDEX idx_opportunities_product ON public.opportunities (workspace_id, product_id);

CREATE TABLE public.interactions (
    id             uuid        NOT NULL DEFAULT gen_random_uuid(),
    workspace_id   uuid        NOT NULL,
    contact_id     uuid        NOT NULL,
    opportunity_id uuid,
    kind           varchar(20) NOT NULL,
    occurred_at    timestamptz NOT NULL,
    summary        text        NOT NULL,
    CONSTRAINT interactions_pkey PRIMARY KEY (id),
    CONSTRAINT interactions_contact_fkey FOREIGN KEY (workspace_id, contact_id)
        REFERENCES public.contacts (workspace_id, id),
    CONSTRAINT interactions_opportunity_fkey FOREIGN KEY (workspace_id, opportunity_id)
        REFERENCES public.opportunities (workspace_id, id),
    CONSTRAINT interactions_kind_known CHECK (kind IN ('call', 'email', 'meeting', 'note'))
);
CREATE INDEX idx_interactions_contact ON public.interactions (workspace_id, contact_id);
CREATE INDEX idx_interactions_opportunity ON public.interactions (workspace_id, opportunity_id);

-- Five policies for each table. The restrictive one holds whatever permissive policies are added later; rows are
-- deleted only by a session that says so, which an application does in its one screen for that.
DO $policies$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['organizations', 'contacts', 'products', 'opportunities', 'interactions'] LOOP
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', relation);
        EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', relation);
        EXECUTE format('CREATE POLICY %I ON public.%I AS RESTRICTIVE USING (workspace_id = public.current_workspace())'
                       ' WITH CHECK (workspace_id = public.current_workspace())', relation || '_workspace', relation);
        EXECUTE format('CREATE POLICY %I ON public.%I FOR SELECT USING (true)', relation || '_select', relation);
        EXECUTE format('CREATE POLICY %I ON public.%I FOR INSERT WITH CHECK (true)', relation || '_insert', relation);
        EXECUTE format('CREATE POLICY %I ON public.%I FOR UPDATE USING (true)', relation || '_update', relation);
        EXECUTE format('CREATE POLICY %I ON public.%I FOR DELETE'
                       ' USING (current_setting(''crm.may_delete'', true) = ''on'')', relation || '_delete', relation);
    END LOOP;
END
$policies$;
