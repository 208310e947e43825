TRUNCATE library.loan, library.copy, library.member, library.book_author, library.book, library.author RESTART IDENTITY;
