package postgres

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

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

// grantTime is an optTime where Stripe may have none too: infinity is told from it.
type grantTime time.Time

func (g *grantTime) ScanTimestamptz(v pgtype.Timestamptz) error {
	if v.InfinityModifier != pgtype.Finite {
		*g = grantTime(mirror.Unreadable)
		return nil
	}
	return (*optTime)(g).ScanTimestamptz(v)
}

// creditColumn scans the invoice_credit_balance of a customer; NULL leaves nil, and so
// does what is not an object of integers, which is told.
type creditColumn struct{ c *mirror.CustomerView }

func (c *creditColumn) ScanBytes(v []byte) error {
	c.c.InvoiceCreditBalance, c.c.CreditUnreadable = nil, false
	if v != nil && json.Unmarshal(v, &c.c.InvoiceCreditBalance) != nil {
		c.c.InvoiceCreditBalance, c.c.CreditUnreadable = nil, true
	}
	return nil
}

// clean makes a text storable: PostgreSQL has no NUL and no broken UTF-8. A
// row with such a character is worth more than the character.
func clean(s string) string {
	if strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

// cleanJSON makes a JSON text storable as jsonb, which holds no \u0000 and no
// half of a surrogate pair. It returns raw itself where there is nothing to do.
func cleanJSON(raw json.RawMessage) json.RawMessage {
	text := clean(string(raw))
	if !strings.Contains(text, `\u`) {
		if len(text) == len(raw) && utf8.Valid(raw) {
			return raw
		}
		return json.RawMessage(text)
	}
	var out strings.Builder
	out.Grow(len(text))
	for i := 0; i < len(text); {
		if text[i] != '\\' || i+1 >= len(text) {
			out.WriteByte(text[i])
			i++
			continue
		}
		unit, ok := escapedUnit(text[i:])
		switch {
		case !ok: // another escape, such as \\ or \n
			out.WriteString(text[i : i+2])
			i += 2
		case unit == 0:
			i += 6
		case !utf16.IsSurrogate(rune(unit)):
			out.WriteString(text[i : i+6])
			i += 6
		default:
			low, _ := escapedUnit(text[i+6:])
			if utf16.DecodeRune(rune(unit), rune(low)) != utf8.RuneError {
				out.WriteString(text[i : i+12])
				i += 12
			} else {
				out.WriteString("\uFFFD")
				i += 6
			}
		}
	}
	return json.RawMessage(out.String())
}

// escapedUnit reads the \uXXXX that s begins with.
func escapedUnit(s string) (uint16, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	return uint16(n), err == nil
}

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
