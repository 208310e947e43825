-- +goose Up
-- +goose StatementBegin
DO $$
BEGIN
    UPDATE shop.ticket SET price = shop.discounted(price, 10) WHERE seat LIKE 'A%';
    IF NOT EXISTS (SELECT FROM shop.ticket WHERE price < 20) THEN
        RAISE EXCEPTION 'no ticket became cheaper; look again';
    END IF;
END;
$$;
-- +goose StatementEnd

-- +goose Down
UPDATE shop.ticket SET price = price * 100 / 90 WHERE seat LIKE 'A%';
