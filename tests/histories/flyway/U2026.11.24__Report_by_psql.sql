DROP TABLE parking.report;
