-- The guided tour: seven steps, which user is how far, and a tip for each part of the application. The steps belong to
-- the version of the application, so the migration brings them; the application knows them by their codes.

CREATE TABLE public.onb_steps (
    code     varchar(40)  NOT NULL,
    position smallint     NOT NULL,
    module   varchar(40)  NOT NULL,
    title    varchar(120) NOT NULL,
    CONSTRAINT onb_steps_pkey PRIMARY KEY (code),
    CONSTRAINT onb_steps_position_key UNIQUE (position),
    CONSTRAINT onb_steps_position_counts_from_one CHECK (position > 0)
);
COMMENT ON TABLE public.onb_steps IS 'The steps of the guided tour, in the order of their positions.';

INSERT INTO public.onb_steps (code, position, module, title)
VALUES ('welcome', 1, 'start', 'Look around'),
       ('company', 2, 'settings', 'Tell us about your company'),
       ('equipment', 3, 'equipment', 'Enter what you rent out'),
       ('scanner', 4, 'equipment', 'Connect the scanner'),
       ('first_project', 5, 'projects', 'Plan your first project'),
       ('first_return', 6, 'projects', 'Take equipment back'),
       ('team', 7, 'settings', 'Invite your team');

CREATE TABLE public.onb_progress (
    id           bigint       GENERATED ALWAYS AS IDENTITY,
    user_email   varchar(254) NOT NULL,
    step_code    varchar(40)  NOT NULL,
    status       varchar(20)  NOT NULL DEFAULT 'open',
    completed_at timestamptz,
    CONSTRAINT onb_progress_pkey PRIMARY KEY (id),
    CONSTRAINT onb_progress_once UNIQUE (user_email, step_code),
    CONSTRAINT onb_progress_user_email_fkey FOREIGN KEY (user_email)
        REFERENCES public.auth_users (email) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT onb_progress_step_code_fkey FOREIGN KEY (step_code) REFERENCES public.onb_steps (code),
    CONSTRAINT onb_progress_status_known CHECK (status IN ('open', 'completed', 'skipped')),
    CONSTRAINT onb_progress_completed_has_time CHECK ((status = 'completed') = (completed_at IS NOT NULL))
);
COMMENT ON TABLE public.onb_progress IS 'How far each user is; no row means that the step was not begun.';

CREATE INDEX idx_onb_progress_step_code ON public.onb_progress (step_code);

CREATE TABLE public.onb_tips (
    id       bigint      GENERATED ALWAYS AS IDENTITY,
    module   varchar(40) NOT NULL,
    position smallint    NOT NULL,
    body     text        NOT NULL,
    CONSTRAINT onb_tips_pkey PRIMARY KEY (id),
    CONSTRAINT onb_tips_position_key UNIQUE (module, position),
    CONSTRAINT onb_tips_body_not_blank CHECK (btrim(body) <> '')
);
COMMENT ON TABLE public.onb_tips IS 'Hints that a part of the application shows to new users.';

INSERT INTO public.onb_tips (module, position, body)
VALUES ('start', 1, 'The bar on the left leads to every part of the application.'),
       ('settings', 1, 'Opening hours decide when a reservation can be picked up.'),
       ('equipment', 1, 'A label with the code of a unit is all the scanner needs.'),
       ('equipment', 2, 'Retire a unit instead of deleting it: its history stays.'),
       ('projects', 1, 'Reserve equipment for the days on which it leaves the house.');
