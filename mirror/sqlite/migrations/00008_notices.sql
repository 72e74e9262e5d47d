-- Which steps of a finding have been told to whoever is notified of drift: 0 none,
-- 1 that it was opened, 2 that it was closed too.

-- +goose Up
ALTER TABLE drift_findings ADD COLUMN notified INTEGER NOT NULL DEFAULT 0;
CREATE INDEX drift_findings_untold_opening ON drift_findings (found_at, id) WHERE notified = 0;
CREATE INDEX drift_findings_untold_closing ON drift_findings (repaired_at, id) WHERE notified < 2 AND repaired_at IS NOT NULL;
