-- +goose Up
CREATE TABLE shop.event (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue_id int NOT NULL REFERENCES shop.venue,
    title text NOT NULL,
    starts_at timestamptz NOT NULL
);
CREATE INDEX event_venue_idx ON shop.event (venue_id, starts_at);

-- +goose Down
DROP TABLE shop.event;
