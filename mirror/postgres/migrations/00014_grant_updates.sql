-- object_updated is the update time of the grant that an event told of: a copy of the
-- grant that is older does not answer the event.

-- +goose Up
ALTER TABLE creditmirror.stripe_events ADD COLUMN object_updated timestamptz;
