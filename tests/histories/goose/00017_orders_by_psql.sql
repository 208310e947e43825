-- +goose Up
\set note 'imported; by psql'
UPDATE shop."order" SET note = :'note' WHERE order_id <= 10;
\echo done

-- +goose Down
UPDATE shop."order" SET note = 'none; as usual' WHERE order_id <= 10;
