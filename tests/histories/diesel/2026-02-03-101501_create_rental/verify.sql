DO $$
BEGIN
    IF (SELECT count(*) FROM bicycle) <> 20 THEN
        RAISE EXCEPTION 'bicycles are missing';
    END IF;
END $$;
