UPDATE library.loan SET status = 'open' WHERE status = 'overdue';
DROP FUNCTION library.mark_overdue(date);
