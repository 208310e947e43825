-- Who may log in. Addresses are kept in lower case, so that one person has one account however the address is typed.

CREATE TABLE public.auth_users (
    id            bigint       GENERATED ALWAYS AS IDENTITY,
    email         varchar(254) NOT NULL,
    password_hash text         NOT NULL,
    display_name  varchar(200) NOT NULL,
    is_active     boolean      NOT NULL DEFAULT true,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT auth_users_pkey PRIMARY KEY (id),
    CONSTRAINT auth_users_email_key UNIQUE (email),
    CONSTRAINT auth_users_email_lower_case CHECK (email = lower(email)),
    CONSTRAINT auth_users_email_has_parts CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
    CONSTRAINT auth_users_password_is_hashed CHECK (password_hash ~ '^\$(argon2id|2[aby])\$')
);
COMMENT ON TABLE public.auth_users IS 'People of the rental company who use the application.';
