DELETE FROM parking.stay;
