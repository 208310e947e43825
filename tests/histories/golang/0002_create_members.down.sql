DROP TABLE library.member;
