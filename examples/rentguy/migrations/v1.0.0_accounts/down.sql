DROP TABLE public.auth_users;
