CREATE MATERIALIZED VIEW library.loans_by_month AS
SELECT date_trunc('month', lent_on::timestamp)::date AS month, count(*) AS loans FROM library.loan GROUP BY 1;
CREATE UNIQUE INDEX loans_by_month_key ON library.loans_by_month (month);
REFRESH MATERIALIZED VIEW CONCURRENTLY library.loans_by_month;
