ALTER TABLE library.fine DETACH PARTITION library.fine_2027;
DROP TABLE library.fine_2027;
