-- +goose Up
INSERT INTO shop.venue (name, city) VALUES ('Opera; Large Hall', 'Vienna'), ('The O''2', 'London'), ('Café "Zum; Hirschen"', 'Graz');
INSERT INTO shop.event (venue_id, title, starts_at)
SELECT 1 + n % 3, 'Evening ' || n || '; part 1', TIMESTAMPTZ '2026-03-01 19:30+00' + n * interval '1 day'
  FROM generate_series(1, 60) AS n;

-- +goose Down
TRUNCATE shop.event, shop.venue RESTART IDENTITY;
