CREATE TABLE library."lost & found" (
    "item; or items" text NOT NULL,
    "where found"    text DEFAULT 'shelf "A"; row 1',
    "Größe"          text,
    CONSTRAINT "has a name; always" CHECK ("item; or items" <> ';')
);
INSERT INTO library."lost & found" ("item; or items") VALUES ('umbrella; black'), ('50 % of a sandwich');
CREATE INDEX "lost & found; by item" ON library."lost & found" ("item; or items");
