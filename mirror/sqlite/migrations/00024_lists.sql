-- The console's lists of findings, dead letters and writes find a page of any choice
-- without reading through the rows that are not of it.

-- +goose Up
CREATE INDEX drift_findings_open_newest ON drift_findings (found_at, id) WHERE repaired_at IS NULL;
CREATE INDEX drift_findings_of_kind ON drift_findings (kind, found_at, id);
CREATE INDEX drift_findings_of_customer ON drift_findings (customer, found_at, id);
CREATE INDEX dead_letters_of_customer ON dead_letters (customer, id) WHERE customer <> '';
CREATE INDEX api_writes_of_customer ON api_writes (customer, created, id) WHERE customer <> '';
CREATE INDEX api_writes_of_key ON api_writes (key_name, created, id);
CREATE INDEX api_writes_of_outcome ON api_writes (outcome, created, id);
