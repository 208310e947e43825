-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION shop.sell(event bigint, wanted text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    sold int;
BEGIN
    UPDATE shop.ticket SET state = 'sold' WHERE event_id = event AND seat = wanted AND state <> 'sold';
    GET DIAGNOSTICS sold = ROW_COUNT;
    IF sold = 0 THEN
        RAISE NOTICE 'seat % is gone; try another', wanted;
    END IF;
    RETURN sold = 1;
END;
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION shop.sell(bigint, text);
