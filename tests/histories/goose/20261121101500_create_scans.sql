-- +goose Up
CREATE UNLOGGED TABLE shop.scan (
    scanned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event_id bigint NOT NULL,
    ticket_id bigint NOT NULL,
    FOREIGN KEY (event_id, ticket_id) REFERENCES shop.ticket
);

-- +goose Down
DROP TABLE shop.scan;
