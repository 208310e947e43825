DELETE FROM library.fine;
