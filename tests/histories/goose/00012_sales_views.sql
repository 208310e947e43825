-- +goose Up
CREATE VIEW shop.sold_ticket AS SELECT * FROM shop.ticket WHERE state IN ('sold', 'refunded');
CREATE VIEW shop.sales AS
SELECT e.title, count(*) AS tickets, sum(t.price) AS total
  FROM shop.event AS e JOIN shop.sold_ticket AS t USING (event_id)
 GROUP BY e.title;

-- +goose Down
DROP VIEW shop.sold_ticket CASCADE;
