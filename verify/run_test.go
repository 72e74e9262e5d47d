package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// fakeAudit serves ranges from memory.
type fakeAudit struct {
	parts   []*tables
	readers int
	closed  int
	err     error
}

func (f *fakeAudit) Audit(_ context.Context, _ mirror.AuditFilter, readers int) (mirror.Audit, error) {
	f.readers = min(f.readers, readers)
	return f, f.err
}

func (f *fakeAudit) Ranges() int  { return len(f.parts) }
func (f *fakeAudit) Readers() int { return f.readers }
func (f *fakeAudit) Close() error { f.closed++; return nil }

func (f *fakeAudit) Range(_ context.Context, i int, fn func(mirror.AuditLedgers) error) error {
	return fn(f.parts[i].ledgers())
}

// manyFindings has more findings in each range than may wait.
func manyFindings(ranges int) *fakeAudit {
	f := &fakeAudit{readers: 3}
	for r := range ranges {
		part := &tables{}
		for c := range 2*waiting + 1 {
			k := key(fmt.Sprintf("cus_%03d_%04d", r, c))
			part.customers = append(part.customers, mirror.AuditCustomer{AuditKey: k, Currency: "eur", Balance: 1})
		}
		f.parts = append(f.parts, part)
	}
	return f
}

func TestRunTellsInOrder(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for _, readers := range []int{1, 2, 8} {
		store := manyFindings(7)
		var customers []string
		result, err := Run(t.Context(), store, Options{Readers: readers, Now: func() time.Time { return at }}, func(f mirror.Finding) error {
			if !f.FoundAt.Equal(at) {
				t.Errorf("found at %s", f.FoundAt)
			}
			customers = append(customers, f.Customer)
			return nil
		})
		n := 7 * (2*waiting + 1)
		if err != nil || result.Findings != int64(n) || result.Customers != int64(n) || len(customers) != n || !slices.IsSorted(customers) || store.closed != 1 {
			t.Fatalf("%d readers: %+v, %v, %d told, closed %d times", readers, result, err, len(customers), store.closed)
		}
	}
}

func TestRunEnds(t *testing.T) {
	t.Parallel()
	enough := errors.New("enough")
	store := manyFindings(5)
	if _, err := Run(t.Context(), store, Options{}, func(mirror.Finding) error { return enough }); !errors.Is(err, enough) || store.closed != 1 {
		t.Errorf("refused finding: %v, closed %d times", err, store.closed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	store = manyFindings(5)
	_, err := Run(ctx, store, Options{}, func(mirror.Finding) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || store.closed != 1 {
		t.Errorf("cancelled: %v, closed %d times", err, store.closed)
	}
	if _, err := Run(t.Context(), &fakeAudit{readers: 1, err: enough}, Options{}, nil); !errors.Is(err, enough) {
		t.Errorf("no audit: %v", err)
	}
	_, err = Run(t.Context(), &fakeAudit{readers: 1, parts: []*tables{{}}}, Options{Filter: mirror.AuditFilter{Customer: "cus_1"}}, nil)
	if !errors.Is(err, mirror.ErrNotFound) {
		t.Errorf("an unknown customer: %v", err)
	}
}
