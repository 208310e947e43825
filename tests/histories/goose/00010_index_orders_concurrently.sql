-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY order_customer_idx ON shop."order" (customer_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS order_placed_idx ON shop."order" USING brin (placed_at);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS shop.order_placed_idx;
DROP INDEX CONCURRENTLY IF EXISTS shop.order_customer_idx;
