CREATE INDEX CONCURRENTLY rental_bicycle_idx ON rental (bicycle_id);
