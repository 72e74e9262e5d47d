-- The mirror's tables, as docs/schema.md lists them. Ids compare by their bytes
-- (COLLATE "C"): that is how pages and sorted locks order them, whatever the
-- database's own collation is. There are no foreign keys, no triggers and no
-- extensions, so that the tables can be partitioned or distributed by
-- (account, customer).

-- +goose Up

CREATE TABLE creditmirror.customers (
    account                text        COLLATE "C" NOT NULL,
    id                     text        COLLATE "C" NOT NULL,
    balance                bigint      NOT NULL,
    currency               text        COLLATE "C",
    invoice_credit_balance jsonb,
    created                timestamptz,
    livemode               boolean     NOT NULL,
    test_clock             text        COLLATE "C",
    customer_account       text        COLLATE "C",
    deleted                boolean     NOT NULL DEFAULT false,
    deleted_at             timestamptz,
    raw                    jsonb,
    digest                 text        NOT NULL,
    synced_at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);
CREATE INDEX customers_by_clock ON creditmirror.customers (account, test_clock, id) WHERE test_clock IS NOT NULL;

CREATE TABLE creditmirror.customer_balances (
    account   text        COLLATE "C" NOT NULL,
    customer  text        COLLATE "C" NOT NULL,
    currency  text        COLLATE "C" NOT NULL,
    balance   bigint      NOT NULL,
    synced_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, customer, currency)
);

CREATE TABLE creditmirror.customer_balance_transactions (
    account          text        COLLATE "C" NOT NULL,
    customer         text        COLLATE "C" NOT NULL,
    id               text        COLLATE "C" NOT NULL,
    currency         text        COLLATE "C" NOT NULL,
    amount           bigint      NOT NULL,
    ending_balance   bigint      NOT NULL,
    type             text        NOT NULL,
    invoice          text        COLLATE "C",
    credit_note      text        COLLATE "C",
    checkout_session text        COLLATE "C",
    description      text,
    metadata         jsonb       NOT NULL,
    created          timestamptz NOT NULL,
    livemode         boolean     NOT NULL,
    chain_position   bigint,
    raw              jsonb       NOT NULL,
    digest           text        NOT NULL,
    synced_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, customer, id)
);
-- The order of a list: an unplaced row counts as newer than any placed one of
-- its second, and the expression lets one row comparison find any page.
CREATE INDEX customer_balance_transactions_page ON creditmirror.customer_balance_transactions
    (account, customer, created, (coalesce(chain_position, 9223372036854775807)), id);
CREATE INDEX customer_balance_transactions_chain ON creditmirror.customer_balance_transactions
    (account, customer, currency, chain_position) WHERE chain_position IS NOT NULL;
CREATE INDEX customer_balance_transactions_unplaced ON creditmirror.customer_balance_transactions
    (account, customer) WHERE chain_position IS NULL;

CREATE TABLE creditmirror.credit_grants (
    account              text        COLLATE "C" NOT NULL,
    id                   text        COLLATE "C" NOT NULL,
    customer             text        COLLATE "C" NOT NULL,
    name                 text,
    category             text        NOT NULL,
    amount_type          text        NOT NULL,
    amount               bigint,
    currency             text        COLLATE "C",
    applicability_config jsonb       NOT NULL,
    priority             bigint,
    effective_at         timestamptz,
    expires_at           timestamptz,
    voided_at            timestamptz,
    created              timestamptz NOT NULL,
    updated              timestamptz NOT NULL,
    livemode             boolean     NOT NULL,
    test_clock           text        COLLATE "C",
    metadata             jsonb       NOT NULL,
    raw                  jsonb       NOT NULL,
    digest               text        NOT NULL,
    synced_at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);
CREATE INDEX credit_grants_page ON creditmirror.credit_grants (account, customer, created, id);
CREATE INDEX credit_grants_page_all ON creditmirror.credit_grants (account, created, id);

CREATE TABLE creditmirror.credit_balance_transactions (
    account           text        COLLATE "C" NOT NULL,
    customer          text        COLLATE "C" NOT NULL,
    id                text        COLLATE "C" NOT NULL,
    "grant"           text        COLLATE "C" NOT NULL,
    type              text        NOT NULL,
    credit_type       text,
    debit_type        text,
    currency          text        COLLATE "C" NOT NULL,
    amount            bigint      NOT NULL,
    invoice           text        COLLATE "C",
    invoice_line_item text        COLLATE "C",
    effective_at      timestamptz,
    created           timestamptz NOT NULL,
    livemode          boolean     NOT NULL,
    test_clock        text        COLLATE "C",
    raw               jsonb       NOT NULL,
    digest            text        NOT NULL,
    synced_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, customer, id)
);
CREATE INDEX credit_balance_transactions_page ON creditmirror.credit_balance_transactions (account, customer, created, id);
-- Also carries what the sums per grant need, so that they are read from the index alone.
CREATE INDEX credit_balance_transactions_grant ON creditmirror.credit_balance_transactions
    (account, customer, "grant", created, id, currency, amount);
CREATE INDEX credit_balance_transactions_id ON creditmirror.credit_balance_transactions (account, id);

CREATE TABLE creditmirror.credit_balance_summaries (
    account           text        COLLATE "C" NOT NULL,
    customer          text        COLLATE "C" NOT NULL,
    currency          text        COLLATE "C" NOT NULL,
    available_balance bigint      NOT NULL,
    ledger_balance    bigint      NOT NULL,
    synced_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, customer, currency)
);

CREATE SEQUENCE creditmirror.stripe_events_seq;
CREATE TABLE creditmirror.stripe_events (
    account        text        COLLATE "C" NOT NULL,
    id             text        COLLATE "C" NOT NULL,
    seq            bigint      NOT NULL DEFAULT nextval('creditmirror.stripe_events_seq'),
    type           text        NOT NULL,
    customer       text        COLLATE "C",
    object         text        COLLATE "C",
    question_scope text        COLLATE "C",
    question_id    text        COLLATE "C",
    pending_scopes integer     NOT NULL,
    livemode       boolean     NOT NULL,
    api_version    text,
    created        timestamptz NOT NULL,
    received_at    timestamptz NOT NULL DEFAULT now(),
    applied_at     timestamptz,
    synced_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);
CREATE INDEX stripe_events_waiting ON creditmirror.stripe_events (seq) WHERE pending_scopes <> 0;
CREATE INDEX stripe_events_waiting_customer ON creditmirror.stripe_events (account, customer, seq) WHERE pending_scopes <> 0;
CREATE INDEX stripe_events_waiting_question ON creditmirror.stripe_events (account, question_scope, question_id) WHERE pending_scopes <> 0;
CREATE INDEX stripe_events_answered ON creditmirror.stripe_events (created) WHERE pending_scopes = 0;

CREATE TABLE creditmirror.dead_letters (
    account         text        COLLATE "C" NOT NULL,
    id              text        COLLATE "C" NOT NULL,
    customer        text        COLLATE "C" NOT NULL,
    scope           text        COLLATE "C" NOT NULL,
    reason          text        NOT NULL,
    attempts        bigint      NOT NULL,
    event_ids       jsonb       NOT NULL,
    payload         bytea,
    first_failed_at timestamptz NOT NULL,
    last_failed_at  timestamptz NOT NULL,
    retry_at        timestamptz,
    synced_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);
CREATE INDEX dead_letters_by_id ON creditmirror.dead_letters (id);
CREATE INDEX dead_letters_by_target ON creditmirror.dead_letters (account, customer, scope);
CREATE INDEX dead_letters_due ON creditmirror.dead_letters (retry_at) WHERE retry_at IS NOT NULL;

CREATE TABLE creditmirror.drift_findings (
    account     text        COLLATE "C" NOT NULL,
    id          text        COLLATE "C" NOT NULL,
    kind        text        COLLATE "C" NOT NULL,
    customer    text        COLLATE "C" NOT NULL,
    scope       text        COLLATE "C" NOT NULL,
    currency    text        COLLATE "C" NOT NULL,
    object      text        COLLATE "C" NOT NULL,
    expected    text        NOT NULL,
    actual      text        NOT NULL,
    cause       text        NOT NULL,
    found_at    timestamptz NOT NULL,
    repaired_at timestamptz,
    synced_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);
CREATE UNIQUE INDEX drift_findings_open ON creditmirror.drift_findings
    (account, customer, kind, currency, object) WHERE repaired_at IS NULL;

CREATE TABLE creditmirror.sweeps (
    account      text        COLLATE "C" NOT NULL,
    name         text        COLLATE "C" NOT NULL,
    state        jsonb,
    watermark    timestamptz,
    started_at   timestamptz,
    last_success timestamptz,
    last_found   bigint      NOT NULL,
    synced_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, name)
);

CREATE TABLE creditmirror.sync_state (
    account          text        COLLATE "C" NOT NULL,
    customer         text        COLLATE "C" NOT NULL,
    scope            text        COLLATE "C" NOT NULL,
    epoch            bigint      NOT NULL,
    applied_epoch    bigint      NOT NULL DEFAULT 0,
    observed_at      timestamptz,
    history_complete boolean     NOT NULL DEFAULT false,
    complete_to      timestamptz,
    walk_cursor      text        COLLATE "C" NOT NULL DEFAULT '',
    walk_top         timestamptz,
    walk_full        boolean     NOT NULL DEFAULT false,
    disproved        boolean     NOT NULL DEFAULT false,
    synced_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, customer, scope)
);
-- Customers that a copy or a sync has met and whose history is not complete:
-- small once the first copy is done, however many customers there are.
CREATE INDEX sync_state_incomplete ON creditmirror.sync_state (account, scope, customer) WHERE NOT history_complete;

CREATE SEQUENCE creditmirror.changes_seq;
CREATE TABLE creditmirror.changes (
    account    text        COLLATE "C" NOT NULL,
    seq        bigint      NOT NULL DEFAULT nextval('creditmirror.changes_seq'),
    table_name text        COLLATE "C" NOT NULL,
    customer   text        COLLATE "C" NOT NULL,
    id         text        COLLATE "C" NOT NULL,
    op         text        NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    xact       xid8        NOT NULL DEFAULT pg_current_xact_id(),
    synced_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, seq)
);
-- A transaction can draw a lower seq than another and still commit later, so seq
-- alone is no place to go on from. A reader asks for
--   (xact, seq) > its last AND xact < pg_snapshot_xmin(pg_current_snapshot())
-- in the order of (xact, seq): below that bound nothing can appear any more.
CREATE INDEX changes_feed ON creditmirror.changes (xact, seq);

CREATE TABLE creditmirror.leases (
    account    text        COLLATE "C" NOT NULL,
    name       text        COLLATE "C" NOT NULL,
    owner      text        NOT NULL,
    expires_at timestamptz NOT NULL,
    synced_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, name)
);

CREATE TABLE creditmirror.accounts (
    account   text        COLLATE "C" NOT NULL,
    seen_at   timestamptz NOT NULL DEFAULT now(),
    synced_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account)
);

CREATE TABLE creditmirror.queue_incarnations (
    account         text        COLLATE "C" NOT NULL,
    queue_partition bigint      NOT NULL,
    incarnation     text        NOT NULL,
    high_water      bigint      NOT NULL,
    synced_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, queue_partition)
);
