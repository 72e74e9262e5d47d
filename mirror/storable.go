package mirror

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The databases do not take the same values. What one of them refuses is refused by
// the rules here, for both, so that a mirror can be moved from one to the other, and
// so that a value which is no use is reported as what it is and not as an outage.

const (
	// maxYear is the last year that every database's time can hold and print.
	maxYear = 9999
	// maxDigits is how many digits a number in JSON may have on either side of its
	// point; PostgreSQL's numeric takes 16,383 behind it.
	maxDigits = 16000
)

// mayHaveBigNumber finds what may be a number with a big exponent, or a very long one. A
// text may look like it too.
func mayHaveBigNumber(raw []byte) bool {
	if len(raw) > maxDigits {
		return true
	}
	digit := func(i int) bool { return i >= 0 && i < len(raw) && '0' <= raw[i] && raw[i] <= '9' }
	for i, c := range raw {
		if c != 'e' && c != 'E' || !digit(i-1) {
			continue
		}
		at := i + 1
		if at < len(raw) && (raw[at] == '+' || raw[at] == '-') {
			at++
		}
		if digit(at) && digit(at+1) && digit(at+2) && digit(at+3) {
			return true
		}
	}
	return false
}

// storableJSON says why a JSON text cannot be stored.
func storableJSON(raw json.RawMessage) error {
	if !mayHaveBigNumber(raw) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	for {
		token, err := dec.Token()
		if err != nil {
			return nil // the end, or no JSON, which is stored as it is
		}
		if n, ok := token.(json.Number); ok && !storableNumber(n.String()) {
			return fmt.Errorf("%w: the number %.20s… in its JSON", ErrUnstorable, n)
		}
	}
}

func storableNumber(text string) bool {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	n := 0
	if exponent != "" {
		var err error
		if n, err = strconv.Atoi(exponent); err != nil {
			return false
		}
	}
	return len(mantissa)+max(n, -n) <= maxDigits
}

func storableTimes(times ...time.Time) error {
	for _, t := range times {
		if t.UTC().Year() > maxYear || t.UTC().Year() < 0 {
			return fmt.Errorf("%w: a time in the year %d", ErrUnstorable, t.UTC().Year())
		}
	}
	return nil
}

// Storable returns why a row cannot be stored; the error is ErrUnstorable.
func (t BalanceTransaction) Storable() error {
	return firstOf(t.ID, storableTimes(t.Created), storableJSON(t.Raw), storableJSON(t.Metadata))
}

// Storable returns why a row cannot be stored; the error is ErrUnstorable.
func (t CreditTransaction) Storable() error {
	return firstOf(t.ID, storableTimes(t.Created, t.EffectiveAt), storableJSON(t.Raw))
}

// Storable returns why a row cannot be stored; the error is ErrUnstorable.
func (g CreditGrant) Storable() error {
	return firstOf(g.ID, storableTimes(g.Created, g.Updated, g.EffectiveAt, g.ExpiresAt, g.VoidedAt), storableJSON(g.Raw),
		storableJSON(g.Metadata), storableJSON(g.ApplicabilityConfig))
}

// Storable returns why a row cannot be stored; the error is ErrUnstorable.
func (c Customer) Storable() error {
	return firstOf(c.ID, storableTimes(c.Created), storableJSON(c.Raw))
}

func firstOf(id string, errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return nil
}

func allStorable[Row interface{ Storable() error }](rows []Row) error {
	for _, r := range rows {
		if err := r.Storable(); err != nil {
			return err
		}
	}
	return nil
}

// CustomersToInsert are the customers of a page of the first copy as a store inserts
// them: each once, in the order in which the change feed has them.
func CustomersToInsert(page []Customer) ([]Customer, error) {
	return inOrder(page, func(c Customer) string { return c.ID }), allStorable(page)
}

// GrantsToInsert are those of a page of grants, each in its newest copy.
func GrantsToInsert(page []CreditGrant) ([]CreditGrant, error) {
	return inOrder(NewestGrants(page), func(g CreditGrant) string { return g.ID }), allStorable(page)
}

// inOrder sorts by id and keeps the first of each.
func inOrder[Row any](rows []Row, id func(Row) string) []Row {
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b Row) int { return strings.Compare(id(a), id(b)) })
	return slices.CompactFunc(rows, func(a, b Row) bool { return id(a) == id(b) })
}

// NewFindingID is the id of a finding that is about to be stored.
func NewFindingID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) //nolint:errcheck // it never fails
	return "drift_" + hex.EncodeToString(b[:])
}

// OldestDue sorts letters in the order in which they became due; due is when each
// did, by its account and id.
func OldestDue(letters []DeadLetter, due func(DeadLetter) time.Time) {
	slices.SortFunc(letters, func(a, b DeadLetter) int {
		if c := due(a).Compare(due(b)); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
}
