CREATE TABLE parking.payment (
    payment_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    stay_id    bigint NOT NULL,
    arrived_at timestamptz NOT NULL,
    cents      int NOT NULL,
    "paid by; card or cash" text NOT NULL DEFAULT 'card; contactless',
    FOREIGN KEY (stay_id, arrived_at) REFERENCES parking.stay
);
CREATE INDEX "payment by ""kind""" ON parking.payment ("paid by; card or cash");

INSERT INTO parking.payment (stay_id, arrived_at, cents) SELECT stay_id, arrived_at, 500 FROM parking.stay LIMIT 900;
