-- What is rented: units of equipment, projects of clients, reservations of units for days, and scans at the door.
--
-- Days are half-open: a reservation ends on the day on which the unit can go out again. That two reservations of a
-- unit do not overlap needs an exclusion constraint with the extension btree_gist, which not every server offers: the
-- application locks the unit, and the suite data_quality looks.

CREATE TABLE public.equipment (
    id         bigint        GENERATED ALWAYS AS IDENTITY,
    code       varchar(20)   NOT NULL,
    name       varchar(120)  NOT NULL,
    category   varchar(40)   NOT NULL,
    daily_rate numeric(10,2) NOT NULL,
    retired_on date,
    CONSTRAINT equipment_pkey PRIMARY KEY (id),
    CONSTRAINT equipment_code_key UNIQUE (code),
    CONSTRAINT equipment_daily_rate_positive CHECK (daily_rate > 0)
);
COMMENT ON TABLE public.equipment IS 'One row for each unit that has a label of its own.';

CREATE TABLE public.projects (
    id             bigint       GENERATED ALWAYS AS IDENTITY,
    number         varchar(20)  NOT NULL,
    name           varchar(200) NOT NULL,
    client_name    varchar(200) NOT NULL,
    responsible_id bigint       NOT NULL,
    starts_on      date         NOT NULL,
    ends_on        date         NOT NULL,
    status         varchar(20)  NOT NULL DEFAULT 'draft',
    CONSTRAINT projects_pkey PRIMARY KEY (id),
    CONSTRAINT projects_number_key UNIQUE (number),
    CONSTRAINT projects_responsible_id_fkey FOREIGN KEY (responsible_id) REFERENCES public.auth_users (id),
    CONSTRAINT projects_end_after_start CHECK (ends_on > starts_on),
    CONSTRAINT projects_status_known CHECK (status IN ('draft', 'confirmed', 'done', 'cancelled'))
);
CREATE INDEX idx_projects_responsible_id ON public.projects (responsible_id);
CREATE INDEX idx_projects_starts_on ON public.projects (starts_on);

CREATE TABLE public.reservations (
    id           bigint        GENERATED ALWAYS AS IDENTITY,
    project_id   bigint        NOT NULL,
    equipment_id bigint        NOT NULL,
    from_day     date          NOT NULL,
    to_day       date          NOT NULL,
    agreed_rate  numeric(10,2) NOT NULL,
    amount       numeric(12,2) NOT NULL,
    status       varchar(20)   NOT NULL DEFAULT 'reserved',
    CONSTRAINT reservations_pkey PRIMARY KEY (id),
    CONSTRAINT reservations_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects (id),
    CONSTRAINT reservations_equipment_id_fkey FOREIGN KEY (equipment_id) REFERENCES public.equipment (id),
    CONSTRAINT reservations_end_after_start CHECK (to_day > from_day),
    CONSTRAINT reservations_amount_not_negative CHECK (agreed_rate >= 0 AND amount >= 0),
    CONSTRAINT reservations_status_known CHECK (status IN ('reserved', 'picked_up', 'returned', 'cancelled'))
);
COMMENT ON COLUMN public.reservations.to_day IS 'The first day on which the unit is free again.';
CREATE INDEX idx_reservations_project_id ON public.reservations (project_id);
CREATE INDEX idx_reservations_equipment_id ON public.reservations (equipment_id, from_day);

CREATE TABLE public.scans (
    id             bigint      GENERATED ALWAYS AS IDENTITY,
    reservation_id bigint      NOT NULL,
    direction      varchar(3)  NOT NULL,
    scanned_at     timestamptz NOT NULL DEFAULT now(),
    scanned_by_id  bigint      NOT NULL,
    CONSTRAINT scans_pkey PRIMARY KEY (id),
    CONSTRAINT scans_once UNIQUE (reservation_id, direction),
    CONSTRAINT scans_reservation_id_fkey FOREIGN KEY (reservation_id) REFERENCES public.reservations (id),
    CONSTRAINT scans_scanned_by_id_fkey FOREIGN KEY (scanned_by_id) REFERENCES public.auth_users (id),
    CONSTRAINT scans_direction_known CHECK (direction IN ('out', 'in'))
);
COMMENT ON TABLE public.scans IS 'What the scanner at the door saw: a unit of a reservation going out, or coming in.';
CREATE INDEX idx_scans_scanned_by_id ON public.scans (scanned_by_id);
