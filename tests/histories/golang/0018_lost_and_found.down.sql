DROP TABLE library."lost & found";
