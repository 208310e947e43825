CREATE TABLE parking.space (
    space_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    car_park_id int NOT NULL REFERENCES parking.car_park ON DELETE CASCADE,
    level       smallint NOT NULL,
    number      smallint NOT NULL,
    UNIQUE (car_park_id, level, number)
);
