-- Every column that the platform's queries name is there, and the rules that guard the money are in force.

DO $verify$
DECLARE
    missing text;
BEGIN
    SELECT string_agg(wanted.relation || '.' || wanted.attribute, ', ' ORDER BY 1)
      INTO missing
      FROM (VALUES
               ('party', 'id'), ('party', 'display_name'), ('party', 'created_at'),
               ('product', 'id'), ('product', 'category'),
               ('loan', 'id'), ('loan', 'loan_number'), ('loan', 'borrower_party_id'), ('loan', 'product_id'),
               ('loan', 'principal_amount'), ('loan', 'currency_code'), ('loan', 'interest_rate'),
               ('loan', 'start_date'), ('loan', 'end_date'), ('loan', 'status'), ('loan', 'created_at'),
               ('payment', 'id'), ('payment', 'payer_party_id'), ('payment', 'amount'),
               ('payment', 'currency_code'), ('payment', 'received_at'), ('payment', 'status'),
               ('payment_allocation', 'id'), ('payment_allocation', 'payment_id'),
               ('payment_allocation', 'loan_id'), ('payment_allocation', 'allocated_amount'),
               ('v_loan_portfolio_overview', 'principal_outstanding')
           ) AS wanted (relation, attribute)
     WHERE NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute AS a
                WHERE a.attrelid = pg_catalog.to_regclass('public.' || wanted.relation)
                  AND a.attname = wanted.attribute
                  AND NOT a.attisdropped);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the lending platform lacks the columns %', missing;
    END IF;

    SELECT string_agg(wanted.name, ', ' ORDER BY 1)
      INTO missing
      FROM (VALUES
               ('loan_borrower_party_id_fkey'), ('loan_product_id_fkey'), ('loan_interest_rate_is_fraction'),
               ('loan_ends_after_it_starts'), ('loan_status_known'), ('payment_payer_party_id_fkey'),
               ('payment_status_known'), ('payment_allocation_payment_id_fkey'),
               ('payment_allocation_loan_id_fkey')
           ) AS wanted (name)
     WHERE NOT EXISTS (
               SELECT FROM pg_catalog.pg_constraint AS c
                WHERE c.connamespace = 'public'::pg_catalog.regnamespace
                  AND c.conname = wanted.name
                  AND c.convalidated);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the lending platform lacks the validated constraints %', missing;
    END IF;

    SELECT string_agg(wanted.name, ', ' ORDER BY 1)
      INTO missing
      FROM (VALUES
               ('idx_party_email'), ('idx_loan_borrower_party_id'), ('idx_loan_product_id'), ('idx_loan_status'),
               ('idx_payment_external_reference'), ('idx_payment_payer_party_id'), ('idx_payment_received_at'),
               ('idx_payment_unfinished'), ('idx_payment_allocation_payment_id'), ('idx_payment_allocation_loan_id')
           ) AS wanted (name)
     WHERE NOT EXISTS (
               SELECT FROM pg_catalog.pg_index AS i
                WHERE i.indexrelid = pg_catalog.to_regclass('public.' || wanted.name)
                  AND i.indisvalid
                  AND i.indisready);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the lending platform lacks the valid indexes %', missing;
    END IF;
END
$verify$;
