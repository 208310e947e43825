UPDATE parking.car_park SET free_spaces = 0;
