-- +goose Up
-- Orders go with their customers.
TRUNCATE shop.customer CASCADE;
ALTER TABLE shop.customer DROP CONSTRAINT customer_email_key;
CREATE UNIQUE INDEX customer_email_key ON shop.customer (lower(email));

-- +goose Down
DROP INDEX shop.customer_email_key;
ALTER TABLE shop.customer ADD CONSTRAINT customer_email_key UNIQUE (email);
