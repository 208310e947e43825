-- Written in another hand: the case of annotations does not matter.
-- +goose UP
CREATE TABLE shop.customer (
    customer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE
);
CREATE TABLE shop."order" (
    order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES shop.customer ON DELETE CASCADE,
    placed_at timestamptz NOT NULL DEFAULT now(),
    note text
);
-- +goose statementbegin
CREATE FUNCTION shop.order_has_note() RETURNS trigger LANGUAGE plpgsql AS $trigger$
BEGIN
    NEW.note := coalesce(NEW.note, 'none; as usual');
    RETURN NEW;
END
$trigger$;
-- +goose STATEMENTEND
CREATE TRIGGER order_has_note BEFORE INSERT ON shop."order" FOR EACH ROW EXECUTE FUNCTION shop.order_has_note();

-- +GOOSE down
DROP TABLE shop."order";
DROP FUNCTION shop.order_has_note();
DROP TABLE shop.customer;
