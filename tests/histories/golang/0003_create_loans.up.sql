CREATE TABLE library.copy (
    copy_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    book_id bigint NOT NULL REFERENCES library.book
);

CREATE TABLE library.loan (
    loan_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    copy_id     bigint NOT NULL REFERENCES library.copy,
    member_id   bigint NOT NULL REFERENCES library.member,
    lent_on     date NOT NULL DEFAULT CURRENT_DATE,
    due_on      date NOT NULL,
    returned_on date,
    CHECK (due_on >= lent_on)
);
