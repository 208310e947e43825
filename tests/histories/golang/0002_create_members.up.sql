CREATE TABLE library.member (
    member_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email     text NOT NULL,
    joined_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT member_email_has_an_at CHECK (email LIKE '%@%')
);
CREATE UNIQUE INDEX member_email_key ON library.member (lower(email));
