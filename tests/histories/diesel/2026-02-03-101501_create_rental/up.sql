CREATE TABLE rental (
    id serial PRIMARY KEY,
    bicycle_id integer NOT NULL REFERENCES bicycle (id) ON DELETE CASCADE,
    during tstzrange NOT NULL CHECK (NOT isempty(during))
);
INSERT INTO bicycle (frame_number) SELECT 'F;' || n FROM generate_series(1, 20) AS n;
