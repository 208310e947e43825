\set ON_ERROR_STOP on
\pset format unaligned

SELECT count(*) > 0 AS has_stays FROM parking.stay \gset
\if :has_stays
CREATE TABLE parking.report AS SELECT 2026 AS year, count(*) AS stays FROM parking.stay;
\else
CREATE TABLE parking.report (year int, stays bigint);
\endif
