-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION shop.discounted(price numeric, percent int) RETURNS numeric LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT CASE WHEN percent BETWEEN 0 AND 100 THEN price * (100 - percent) / 100 ELSE price END;
END;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION shop.discounted(numeric, int);
