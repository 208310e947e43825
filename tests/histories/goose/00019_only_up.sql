-- +goose Up
COMMENT ON SCHEMA shop IS 'Tickets; and what belongs to them';

-- +goose Down
COMMENT ON SCHEMA shop IS NULL;
