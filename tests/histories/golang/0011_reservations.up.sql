BEGIN;

CREATE TABLE library.reservation (
    book_id     bigint NOT NULL REFERENCES library.book,
    member_id   bigint NOT NULL REFERENCES library.member,
    reserved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (book_id, member_id)
);

CREATE INDEX reservation_member_idx ON library.reservation (member_id);

COMMIT;
