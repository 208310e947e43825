-- Apostrophes, semicolons; and comments -- like this one -- are text here, not the end of anything.
INSERT INTO library.author (name) VALUES ('Ursula K. Le Guin'), ('Flann O''Brien'), (E'Anon;\tunknown');

INSERT INTO library.book (isbn, title, published)
VALUES ('978-0-00', 'The Word; and Other Words', '1972-01-01'), /* a note; with a semicolon /* and a nest */ */
       ('978-0-01', 'At -- Swim', NULL),
       ('978-0-02', $title$It's; $1 -- or nothing$title$, '2001-02-03');

INSERT INTO library.copy (book_id) SELECT book_id FROM library.book, generate_series(1, 40);
INSERT INTO library.member (email) SELECT 'member' || n || '@example.org' FROM generate_series(1, 50) AS n;
INSERT INTO library.loan (copy_id, member_id, lent_on, due_on)
SELECT c.copy_id, m.member_id, DATE '2026-01-01' + c.n, DATE '2026-01-22' + c.n
  -- By place, not by number: what is rolled back has used up numbers.
  FROM (SELECT copy_id, row_number() OVER (ORDER BY copy_id)::int AS n FROM library.copy) AS c
  JOIN (SELECT member_id, row_number() OVER (ORDER BY member_id)::int AS n FROM library.member) AS m
    ON m.n = 1 + c.n % 50;
