-- Who wrote what through the API. A write is noted in api_write_intents before it is
-- sent and moves to api_writes with its outcome. Rows of api_writes never change, and
-- the database itself refuses to delete one that is younger than 30 days.

-- +goose Up

CREATE TABLE creditmirror.api_writes (
    account           text        COLLATE "C" NOT NULL,
    id                text        COLLATE "C" NOT NULL,
    created           timestamptz NOT NULL,
    key_name          text        COLLATE "C" NOT NULL,
    operation         text        NOT NULL,
    customer          text        COLLATE "C" NOT NULL,
    object            text        COLLATE "C" NOT NULL,
    amount            bigint,
    currency          text,
    idempotency_key   text        COLLATE "C" NOT NULL,
    remote_addr       text        NOT NULL,
    stripe_request_id text        NOT NULL,
    status            integer     NOT NULL,
    outcome           text        NOT NULL,
    reason            text        NOT NULL,
    repeated          bigint      NOT NULL,
    synced_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);
CREATE INDEX api_writes_created ON creditmirror.api_writes (created, id);
CREATE INDEX api_writes_spent ON creditmirror.api_writes (key_name, currency, created) WHERE outcome IN ('done', 'unknown');

CREATE TABLE creditmirror.api_write_intents (
    account         text        COLLATE "C" NOT NULL,
    id              text        COLLATE "C" NOT NULL,
    created         timestamptz NOT NULL,
    key_name        text        COLLATE "C" NOT NULL,
    operation       text        NOT NULL,
    customer        text        COLLATE "C" NOT NULL,
    object          text        COLLATE "C" NOT NULL,
    amount          bigint,
    currency        text,
    idempotency_key text        COLLATE "C" NOT NULL,
    remote_addr     text        NOT NULL,
    synced_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);

CREATE TABLE creditmirror.api_key_uses (
    account      text        COLLATE "C" NOT NULL,
    name         text        COLLATE "C" NOT NULL,
    last_used_at timestamptz NOT NULL,
    synced_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, name)
);

-- +goose StatementBegin
CREATE FUNCTION creditmirror.api_writes_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.created <= now() - interval '30 days' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'rows of api_writes never change, and are kept for 30 days at least';
END
$$;
-- +goose StatementEnd
CREATE TRIGGER api_writes_append_only BEFORE UPDATE OR DELETE ON creditmirror.api_writes
FOR EACH ROW EXECUTE FUNCTION creditmirror.api_writes_append_only();
CREATE TRIGGER api_writes_not_truncated BEFORE TRUNCATE ON creditmirror.api_writes
FOR EACH STATEMENT EXECUTE FUNCTION creditmirror.api_writes_append_only();
