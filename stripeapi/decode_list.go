package stripeapi

import (
	"bytes"
	"errors"
	"fmt"
)

// row is one object of a list.
type row struct {
	fields
	json []byte
	id   string
}

// BadRow is an object of a list that cannot be mirrored.
type BadRow struct {
	// ID is the object's own, empty where it has none that can be used.
	ID string
	// Raw is its JSON; of a customer what is kept of one at most.
	Raw []byte
	// Err says what is wrong with it.
	Err error
}

// list is a checked envelope.
type list struct {
	rows    []row
	hasMore bool
	// bad are the elements that are no objects with an id.
	bad []BadRow
	// last is the cursor for the next page: the id of the last row that has one.
	last string
}

// decodeList checks the envelope of a list. Its url is not looked at: Stripe
// itself puts wrong ones there. cursors are the ids that the page was asked to
// lie beyond: a page that has one of them would be read for ever.
func decodeList(body []byte, cursors ...string) (list, error) {
	top, err := decodeTop(body)
	if err != nil {
		return list{}, err
	}
	top.word("object", "list")
	more := top.boolean("has_more")
	data := top.need("data")
	if top.err != nil {
		return list{}, top.err
	}
	elements, err := parseArray(data)
	if err != nil {
		return list{}, fmt.Errorf("data is %w", err)
	}
	if more && len(elements) == 0 {
		return list{}, errors.New("has_more is true, but there is no row to go on from")
	}
	l := list{hasMore: more, rows: make([]row, 0, len(elements))}
	seen := make(map[string]bool, len(elements)+len(cursors))
	for _, c := range cursors {
		if c != "" {
			seen[c] = true
		}
	}
	for i, raw := range elements {
		o, err := parseObject(raw)
		if err != nil {
			l.bad = append(l.bad, BadRow{Raw: bytes.Clone(raw), Err: fmt.Errorf("row %d is %w", i, err)})
			continue
		}
		r := row{fields: fields{object: o}, json: raw}
		if r.id = r.fields.id("id"); r.err != nil {
			l.bad = append(l.bad, BadRow{Raw: bytes.Clone(raw), Err: fmt.Errorf("row %d: %w", i, r.err)})
			continue
		}
		if seen[r.id] {
			return list{}, fmt.Errorf("row %d: %.60q comes twice", i, r.id)
		}
		seen[r.id] = true
		l.rows = append(l.rows, r)
		l.last = r.id
	}
	if more && l.last == "" {
		return list{}, fmt.Errorf("has_more is true, but no row has an id to go on from: %w", l.bad[0].Err)
	}
	return l, nil
}

// decodeTop splits a whole reply.
func decodeTop(body []byte) (row, error) {
	raw, err := compactJSON(body)
	if err != nil {
		return row{}, err
	}
	o, err := parseObject(raw)
	if err != nil {
		return row{}, err
	}
	r := row{fields: fields{object: o}, json: raw}
	if r.has("error") && !r.has("object") {
		return row{}, errors.New("an error in the body of a reply that is none")
	}
	return r, nil
}

// decodeOne splits a reply that is a single object with an id.
func decodeOne(body []byte) (row, error) {
	r, err := decodeTop(body)
	if err != nil {
		return row{}, err
	}
	r.id = r.fields.id("id")
	return r, r.err
}

// goodRows decodes the rows of a list whose objects have nothing to do with each other:
// one that cannot be mirrored costs only itself.
func goodRows[T any](l list, decode func(r row) (T, error)) ([]T, []BadRow) {
	rows, bad := make([]T, 0, len(l.rows)), l.bad
	for _, r := range l.rows {
		v, err := decode(r)
		if err != nil {
			bad = append(bad, BadRow{ID: r.id, Raw: bytes.Clone(r.json), Err: err})
			continue
		}
		rows = append(rows, v)
	}
	return rows, bad
}

// decodeRows decodes every row of a list of which one row proves the other, and names
// the one at fault.
func decodeRows[T any](l list, decode func(r row) (T, error)) ([]T, error) {
	if len(l.bad) > 0 {
		return nil, l.bad[0].Err
	}
	rows := make([]T, 0, len(l.rows))
	for _, r := range l.rows {
		v, err := decode(r)
		if err != nil {
			return nil, fmt.Errorf("%.60q: %w", r.id, err)
		}
		rows = append(rows, v)
	}
	return rows, nil
}
