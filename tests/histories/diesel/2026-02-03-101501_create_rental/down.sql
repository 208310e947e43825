DROP TABLE rental;
DELETE FROM bicycle;
