-- +goose NO TRANSACTION
-- +goose Up
BEGIN;
ALTER TABLE shop."order" ADD COLUMN total numeric(10, 2);
UPDATE shop."order" SET total = 0;
COMMIT;

-- +goose Down
ALTER TABLE shop."order" DROP COLUMN total;
