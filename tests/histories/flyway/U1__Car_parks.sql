-- Repeatable migrations have put views into the schema.
DROP SCHEMA parking CASCADE;
