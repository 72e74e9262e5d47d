package sqlite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// timeFormat has a fixed width, so that text order is time order.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// stamp writes a time as the tables hold it.
func stamp(t time.Time) string { return t.UTC().Format(timeFormat) }

// nullTime is stamp with NULL for the zero time.
func nullTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return stamp(t)
}

// timeColumn scans a time; NULL leaves the zero time. So does a text that is no
// time: only SQL can have put it there, verify names it, and the zero time differs
// from what Stripe shows, so that a sync which compares it writes it anew.
type timeColumn struct{ t *time.Time }

func (c timeColumn) Scan(v any) error {
	*c.t = time.Time{}
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		if t, err := time.Parse(timeFormat, v); err == nil {
			*c.t = t.UTC()
		}
		return nil
	}
	return fmt.Errorf("%T is not a time", v)
}

// grantTime is a timeColumn where Stripe may have none too: what cannot be read is
// recognized from it.
type grantTime struct{ t *time.Time }

func (c grantTime) Scan(v any) error {
	err := timeColumn(c).Scan(v)
	if v != nil && c.t.IsZero() {
		*c.t = mirror.Unreadable
	}
	return err
}

// null writes the empty string as NULL.
func null(s string) any {
	if s == "" {
		return nil
	}
	return plain(s)
}

// plain leaves out NUL characters: many readers of the file end a text there,
// and PostgreSQL has no place for them. The raw JSON keeps them, escaped.
func plain(s string) string {
	return strings.ReplaceAll(s, "\x00", "")
}

// textColumn scans a text; NULL leaves the empty string.
type textColumn struct{ s *string }

func (c textColumn) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*c.s = ""
		return nil
	case string:
		*c.s = v
		return nil
	}
	return fmt.Errorf("%T is not a text", v)
}

// jsonColumn scans a JSON text; NULL leaves nil.
type jsonColumn struct{ raw *json.RawMessage }

func (c jsonColumn) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*c.raw = nil
		return nil
	case string:
		*c.raw = json.RawMessage(v)
		return nil
	}
	return fmt.Errorf("%T is not a JSON text", v)
}

// object is a JSON column that is never null.
func object(raw json.RawMessage) string {
	if len(bytes.TrimSpace(raw)) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return "{}"
	}
	return string(raw)
}

// nullRaw writes nil as NULL.
func nullRaw(raw json.RawMessage) any {
	if len(raw) == 0 {
		return nil
	}
	return string(raw)
}

// creditText writes an invoice_credit_balance; nil, which was not read, as NULL.
func creditText(m map[string]int64) any {
	if m == nil {
		return nil
	}
	raw, err := json.Marshal(m)
	if err != nil {
		panic(err) // a map of integers always has a JSON form
	}
	return string(raw)
}

// flag is a boolean as STRICT tables hold it.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// batch renders rows as the one parameter of INSERT … SELECT FROM json_each: a
// statement of fixed text writes any number of rows.
func batch(rows [][]any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(rows); err != nil {
		return "", err
	}
	return b.String(), nil
}

// batchRows bounds the size of one batch's text, since SQLite parses it whole.
const batchRows = 500

// inBatches runs a statement whose first parameter is a batch, as often as the
// rows need, and returns how many rows it touched.
func (t *tx) inBatches(query string, rows [][]any, args ...any) (int, error) {
	total := 0
	for part := range slices.Chunk(rows, batchRows) {
		if err := t.cancel.Err(); err != nil {
			return total, err
		}
		text, err := batch(part)
		if err != nil {
			return total, err
		}
		n, err := t.affect(query, append([]any{text}, args...)...)
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// sortedKeys gives writes a fixed order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// The bits of stripe_events.pending_scopes.
const (
	bitBalance  = 1
	bitCredits  = 2
	bitQuestion = 4
)

// scopeBit is the bit of what a target waits for.
func scopeBit(s mirror.Scope) int {
	switch s {
	case mirror.ScopeBalance:
		return bitBalance
	case mirror.ScopeCredits:
		return bitCredits
	}
	return bitQuestion
}
