-- Policies go with their tables.

DROP TABLE public.interactions;
DROP TABLE public.opportunities;
DROP TABLE public.products;
DROP TABLE public.contacts;
DROP TABLE public.organizations;
DROP FUNCTION public.current_workspace();
