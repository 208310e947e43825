DROP TABLE library.book_author;
DROP TABLE library.book;
DROP TABLE library.author;
DROP SCHEMA library;
