DROP TABLE library.fine;
