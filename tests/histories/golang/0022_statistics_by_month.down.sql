DROP MATERIALIZED VIEW library.loans_by_month;
