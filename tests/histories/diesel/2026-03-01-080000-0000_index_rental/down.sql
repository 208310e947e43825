DROP INDEX CONCURRENTLY rental_bicycle_idx;
