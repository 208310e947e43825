CREATE TABLE bicycle (
    id serial PRIMARY KEY,
    frame_number varchar NOT NULL UNIQUE,
    updated_at timestamp NOT NULL DEFAULT now()
);
CREATE TRIGGER bicycle_updated BEFORE UPDATE ON bicycle FOR EACH ROW EXECUTE FUNCTION diesel_set_updated_at();
