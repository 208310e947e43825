DROP TABLE bicycle;
