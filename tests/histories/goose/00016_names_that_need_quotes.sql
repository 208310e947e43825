-- +goose Up
CREATE TABLE shop."gift voucher; paper" (
    "code; printed" text PRIMARY KEY,
    "50 % off?" boolean NOT NULL DEFAULT false,
    "Straße" text
);
INSERT INTO shop."gift voucher; paper" VALUES ('A;1', true, $$Hauptstraße 1; Tür 2$$), ('B--2', false, '/* none */');

-- +goose Down
DROP TABLE shop."gift voucher; paper";
