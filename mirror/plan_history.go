package mirror

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// whole reports whether a read goes over every row of a history, or is a piece of one
// that does: what it lists is compared with what is stored in every column.
func whole(joined, full bool, walk Walk) bool { return joined && full || !joined && walk.Full }

// compared are those of the listed objects that a read of some rows alone compares in
// every column.
func compared[Row Storable[Row]](listed []string, stored map[string]Stored[Row]) []string {
	var list []string
	for _, id := range listed {
		if _, known := stored[id]; known {
			list = append(list, id)
		}
	}
	return list
}

// RewrittenError is an ErrLedgerRewritten that lists the differences.
type RewrittenError struct {
	// Findings are the differences, at least one, as Refusal takes them.
	Findings []Finding
	text     string
}

func (e *RewrittenError) Error() string { return ErrLedgerRewritten.Error() + ": " + e.text }
func (e *RewrittenError) Unwrap() error { return ErrLedgerRewritten }

// Lasting reports whether a lagging list cannot explain the differences: a row that it shows
// differs; it does not just leave rows out.
func (e *RewrittenError) Lasting() bool {
	return !slices.ContainsFunc(e.Findings, func(f Finding) bool { return f.Kind == DriftUnexpectedTransaction })
}

// add notes one difference; text is what the error says of it.
func (e *RewrittenError) add(f Finding, format string, args ...any) {
	if e.text == "" {
		e.text = fmt.Sprintf(format, args...)
	}
	if len(e.Findings) < findingsPerCommit {
		f.Cause = CauseRewritten
		e.Findings = append(e.Findings, f)
	}
}

// err is the error, or nil where nothing was noted.
func (e *RewrittenError) err() error {
	if e.text == "" {
		return nil
	}
	return e
}

// field is an immutable field of a row as Stripe shows it and as it is held; without
// a name where nothing differs.
type field struct{ name, want, have string }

// number and word are fields whose values may be shown: amounts and ids.
func number(name string, want, have int64) field {
	f := field{name, strconv.FormatInt(want, 10), strconv.FormatInt(have, 10)}
	if name != "amount" { // bare numbers are summed up as money
		f.want, f.have = name+" "+f.want, name+" "+f.have
	}
	return f
}

func word(name, want, have string) field { return field{name, name + " " + want, name + " " + have} }

func moment(name string, want, have time.Time) field {
	return word(name, want.UTC().Format(time.RFC3339Nano), have.UTC().Format(time.RFC3339Nano))
}

// reply is what a sync listed of a ledger: the rows by id, and the ids, newest first.
type reply[Row Storable[Row]] struct {
	rows  map[string]Row
	order []string
}

func replyOf[Row Storable[Row]](windows []Window[Row], id func(Row) string) reply[Row] {
	r := reply[Row]{rows: map[string]Row{}}
	for _, w := range windows {
		for _, row := range w.Rows {
			if _, doubled := r.rows[id(row)]; !doubled {
				r.order = append(r.order, id(row))
			}
			r.rows[id(row)] = row
		}
	}
	return r
}

// storable returns why a row cannot be stored, in the order of the list.
func (r reply[Row]) storable() error {
	for _, id := range r.order {
		if err := r.rows[id].Storable(); err != nil {
			return err
		}
	}
	return nil
}

// newest is the created time of the newest row, or t when none is newer.
func newest[Row any](t time.Time, windows []Window[Row], created func(Row) time.Time) time.Time {
	for _, w := range windows {
		for _, r := range w.Rows {
			t = later(t, created(r))
		}
	}
	return t
}

// rowFacts is what history must know of a held row.
type rowFacts struct {
	id, currency string
	amount       int64
	created      time.Time
	digest       string
}

// history holds the rows of one ledger against a reply.
type history[Row Storable[Row], Held any] struct {
	reply   reply[Row]
	windows []Window[Row]
	held    []Held
	// others are held too, and prove nothing against a reply.
	others []Held
	stored map[string]Stored[Row]
	// whole: what was changed here is repaired. Any other read is refused by it, so
	// that a whole one follows.
	whole   bool
	created func(Row) time.Time
	row     func(Held) rowFacts
	// hold is a stored row as it would be held.
	hold func(Stored[Row]) Held
	// changed is the first field that differs of those that never change.
	changed func(Row, Held) field
	// currency is that of a row.
	currency func(Row) string
	finding  func(kind DriftKind, object, currency string) Finding
}

// check refuses a reply that lacks a row that was seen before or changes what
// cannot change: ledgers are append-only. A row that was changed here accuses
// nobody.
func (h history[Row, Held]) check() error {
	var refused RewrittenError
	seen := make(map[string]bool, len(h.stored))
	for _, held := range h.held {
		if id := h.row(held).id; len(h.stored) > 0 {
			seen[id] = true
		}
		h.checkRow(held, &refused)
	}
	for _, id := range slices.Sorted(maps.Keys(h.stored)) {
		if !seen[id] { // its time was changed, so that it lies elsewhere
			h.checkRow(h.hold(h.stored[id]), &refused)
		}
	}
	return refused.err()
}

func (h history[Row, Held]) checkRow(held Held, refused *RewrittenError) {
	old := h.row(held)
	row, listed := h.reply.rows[old.id]
	if !listed {
		if h.inside(old.created) && !h.elsewhere(old.id) {
			f := h.finding(DriftUnexpectedTransaction, old.id, old.currency)
			f.Actual = strconv.FormatInt(old.amount, 10)
			refused.add(f, "%s is missing from the list", old.id)
		}
		return
	}
	if changed := h.changed(row, held); changed.name != "" && !h.changedHere(old.id) {
		f := h.finding(DriftFieldMismatch, old.id, h.currency(row))
		f.Expected, f.Actual = changed.want, changed.have
		refused.add(f, "%s of %s changed", changed.name, old.id)
	}
}

// diff sorts the rows of a reply that must be written: those that are not held, oldest
// first as in a change feed; those that Stripe shows otherwise than before; and those that
// were changed here.
func (h history[Row, Held]) diff() (insert, update, restore []Row) {
	digests := make(map[string]string, len(h.held))
	for _, held := range h.others {
		digests[h.row(held).id] = h.row(held).digest
	}
	for id, stored := range h.stored {
		digests[id] = stored.Digest
	}
	for _, held := range h.held {
		digests[h.row(held).id] = h.row(held).digest
	}
	for _, id := range h.reply.order {
		row := h.reply.rows[id]
		digest := Digest(row.json())
		was, held := digests[id]
		stored, known := h.stored[id]
		switch {
		case !held:
			insert = append(insert, row)
		case known && stored.damaged(row, digest):
			restore = append(restore, row)
		case was != digest:
			update = append(update, row)
		}
	}
	slices.Reverse(insert)
	return insert, update, restore
}

// inside reports whether a row of that time must be in one of the windows.
func (h history[Row, Held]) inside(t time.Time) bool {
	return slices.ContainsFunc(h.windows, func(w Window[Row]) bool { return inside(w, t, h.created) })
}

// changedHere reports whether a row is known not to lie there as it was written.
func (h history[Row, Held]) changedHere(id string) bool {
	stored, known := h.stored[id]
	return h.whole && known && !stored.Intact()
}

// elsewhere reports whether a row whose time was changed here belongs to another
// piece of the history.
func (h history[Row, Held]) elsewhere(id string) bool {
	said := h.stored[id].said()
	return !said.IsZero() && !h.inside(said) && h.changedHere(id)
}
