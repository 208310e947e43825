ALTER TABLE library.copy DROP COLUMN branch_id;
DROP TABLE library.branch;
