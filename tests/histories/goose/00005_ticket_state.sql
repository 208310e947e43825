-- +goose Up
CREATE TYPE shop.ticket_state AS ENUM ('free', 'held', 'sold');
CREATE TABLE shop.ticket (
    ticket_id bigint GENERATED ALWAYS AS IDENTITY,
    event_id bigint NOT NULL REFERENCES shop.event,
    seat text NOT NULL,
    state shop.ticket_state NOT NULL DEFAULT 'free',
    price numeric(8, 2) NOT NULL,
    PRIMARY KEY (event_id, ticket_id)
) PARTITION BY HASH (event_id);
CREATE TABLE shop.ticket_0 PARTITION OF shop.ticket FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE shop.ticket_1 PARTITION OF shop.ticket FOR VALUES WITH (MODULUS 2, REMAINDER 1);

-- +goose Down
DROP TABLE shop.ticket;
DROP TYPE shop.ticket_state;
