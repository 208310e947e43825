-- +goose NO TRANSACTION
-- +goose Up
VACUUM (ANALYZE) shop.ticket_0, shop.ticket_1;

-- +goose Down
SELECT 'nothing to undo; really';
