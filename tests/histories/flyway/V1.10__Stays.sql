CREATE TABLE parking.stay (
    stay_id    bigint GENERATED ALWAYS AS IDENTITY,
    space_id   bigint NOT NULL REFERENCES parking.space,
    plate      text NOT NULL REFERENCES parking.vehicle,
    arrived_at timestamptz NOT NULL,
    left_at    timestamptz,
    PRIMARY KEY (stay_id, arrived_at),
    CHECK (left_at > arrived_at)
) PARTITION BY RANGE (arrived_at);

CREATE TABLE parking.stay_2026_q1 PARTITION OF parking.stay FOR VALUES FROM ('2026-01-01+00') TO ('2026-04-01+00');
CREATE TABLE parking.stay_2026_q2 PARTITION OF parking.stay FOR VALUES FROM ('2026-04-01+00') TO ('2026-07-01+00');
CREATE TABLE parking.stay_other PARTITION OF parking.stay DEFAULT;
