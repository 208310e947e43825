-- +goose Up
CREATE SCHEMA shop;
CREATE TABLE shop.venue (
    venue_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    city text NOT NULL
);

-- +goose Down
DROP TABLE shop.venue;
DROP SCHEMA shop;
