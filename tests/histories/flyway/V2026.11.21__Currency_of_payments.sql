ALTER TABLE parking.payment ADD COLUMN currency char(3) NOT NULL DEFAULT '${currency}';
COMMENT ON COLUMN parking.payment.currency IS 'ISO 4217; ${currency} until the border is crossed';
