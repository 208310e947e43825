-- +goose Up
INSERT INTO shop.customer (email) SELECT 'c' || n || '@example.org' FROM generate_series(1, 200) AS n;
INSERT INTO shop."order" (customer_id) SELECT customer_id FROM shop.customer WHERE customer_id % 2 = 0;
SELECT shop.sell(1, 'A1'), shop.sell(1, 'A1'), shop.sell(2, 'B7');

-- +goose Down
UPDATE shop.ticket SET state = 'free';
TRUNCATE shop."order", shop.customer RESTART IDENTITY;
