-- +goose Up
INSERT INTO shop.ticket (event_id, seat, price)
SELECT e.event_id, chr(65 + n / 20) || (1 + n % 20), 20 + n % 5
  FROM shop.event AS e, generate_series(0, 99) AS n;

-- +goose Down
DELETE FROM shop.ticket;
