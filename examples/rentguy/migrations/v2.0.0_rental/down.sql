-- Projects, reservations and scans go with their tables. Whoever undoes a deployment is told about them before this runs.

DROP TABLE public.scans;
DROP TABLE public.reservations;
DROP TABLE public.projects;
DROP TABLE public.equipment;
