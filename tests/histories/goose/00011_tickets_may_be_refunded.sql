-- +Goose No Transaction
-- +goose Up
ALTER TYPE shop.ticket_state ADD VALUE 'refunded';
UPDATE shop.ticket SET state = 'refunded' WHERE event_id = 2 AND seat = 'B7';

-- +goose Down
UPDATE shop.ticket SET state = 'sold' WHERE state = 'refunded';
DROP FUNCTION shop.sell(bigint, text);
ALTER TABLE shop.ticket ALTER COLUMN state DROP DEFAULT, ALTER COLUMN state TYPE text;
DROP TYPE shop.ticket_state;
CREATE TYPE shop.ticket_state AS ENUM ('free', 'held', 'sold');
ALTER TABLE shop.ticket
    ALTER COLUMN state TYPE shop.ticket_state USING state::shop.ticket_state, ALTER COLUMN state SET DEFAULT 'free';
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
