package postgres

import (
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/creditmirror/creditmirror/mirror"
)

// optTime is a time.Time whose zero is NULL. Infinity is read as zero too: only SQL
// can have put it there, verify names it, and the zero time differs from what Stripe
// shows, so that a sync which compares it writes it anew.
type optTime time.Time

func (o *optTime) ScanTimestamptz(v pgtype.Timestamptz) error {
	*o = optTime{}
	if v.Valid {
		*o = optTime(v.Time.UTC())
	}
	return nil
}

func (o optTime) TimestamptzValue() (pgtype.Timestamptz, error) {
	t := time.Time(o)
	return pgtype.Timestamptz{Time: t, Valid: !t.IsZero()}, nil
}

// optText is a string whose empty value is NULL.
type optText string

func (o *optText) ScanText(v pgtype.Text) error {
	*o = optText(v.String)
	return nil
}

func (o optText) TextValue() (pgtype.Text, error) {
	s := clean(string(o))
	return pgtype.Text{String: s, Valid: s != ""}, nil
}

// grantTime is an optTime where Stripe may have none too: infinity is recognized from it.
type grantTime time.Time

func (g *grantTime) ScanTimestamptz(v pgtype.Timestamptz) error {
	if v.InfinityModifier != pgtype.Finite {
		*g = grantTime(mirror.Unreadable)
		return nil
	}
	return (*optTime)(g).ScanTimestamptz(v)
}

// creditColumn scans the invoice_credit_balance of a customer; NULL leaves nil, and so
// does what is not an object of integers, which is reported.
type creditColumn struct{ c *mirror.CustomerView }

func (c *creditColumn) ScanBytes(v []byte) error {
	c.c.InvoiceCreditBalance, c.c.CreditUnreadable = nil, false
	if v != nil && json.Unmarshal(v, &c.c.InvoiceCreditBalance) != nil {
		c.c.InvoiceCreditBalance, c.c.CreditUnreadable = nil, true
	}
	return nil
}

// clean and cleanJSON are mirror's; the client of Stripe has cleaned what it read, and
// who else stores something has not.
func clean(s string) string                         { return mirror.StorableText(s) }
func cleanJSON(raw json.RawMessage) json.RawMessage { return mirror.StorableJSON(raw) }

// optJSON is a jsonb parameter; an empty text is NULL.
func optJSON(raw json.RawMessage) optText { return optText(cleanJSON(raw)) }

// objectJSON is a jsonb parameter for a column that holds an object; nothing is
// the empty one.
func objectJSON(raw json.RawMessage) string {
	if len(raw) == 0 || string(raw) == "null" {
		return "{}"
	}
	return string(cleanJSON(raw))
}

// column turns one field of many rows into the array of a statement's parameter.
func column[Row, Value any](rows []Row, field func(*Row) Value) []Value {
	values := make([]Value, len(rows))
	for i := range rows {
		values[i] = field(&rows[i])
	}
	return values
}
