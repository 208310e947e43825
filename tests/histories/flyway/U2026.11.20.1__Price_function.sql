DROP FUNCTION parking.price(parking.tariff_kind, int);
