CREATE SCHEMA library;

CREATE TABLE library.author (
    author_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL
);

CREATE TABLE library.book (
    book_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    isbn      text NOT NULL UNIQUE,
    title     text NOT NULL,
    published date
);

CREATE TABLE library.book_author (
    book_id   bigint NOT NULL REFERENCES library.book,
    author_id bigint NOT NULL REFERENCES library.author,
    PRIMARY KEY (book_id, author_id)
);
